"""The digests of a checkpoint's files, a text that `sha256sum -c` reads: made, read, compared.

They lie inside its folder; for a checkpoint that is a single file, as earlier versions wrote it,
in a file beside it.
"""

from collections.abc import Mapping
from pathlib import Path

from data_prep.manifest import file_sha256

LISTING = "SHA256SUMS"
DIGEST_SUFFIX = ".sha256"
_HEX_LEN = 64


class CheckpointError(OSError):
    """A checkpoint is damaged, refused, or cannot be written; the message names it and why.

    `errno` is that of the system call behind it, or None.
    """


def checkpoint_error(message: str, cause: OSError | None = None) -> CheckpointError:
    """Return a CheckpointError with the errno of the error that caused it."""
    error = CheckpointError(message)
    error.errno = cause.errno if cause else None
    return error


def digest_path(path: Path) -> Path:
    """Return where the digest of a checkpoint that is a single file lies."""
    return path.with_name(path.name + DIGEST_SUFFIX)


def listing_text(listing: Mapping[str, str]) -> str:
    """Return the text of a listing of file names and their sha256 (hex)."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(listing.items()))


def read_listing(path: Path) -> dict[str, str]:
    """Return the sha256 (hex) of every file of a checkpoint, as its listing says.

    Raises:
        CheckpointError: There is no listing, it cannot be read, or a line of it is broken.
    """
    file = path / LISTING if path.is_dir() else digest_path(path)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: it has no digest ({file.name}), so nothing says that it is whole. "
            f"If you trust it, make one in {file.parent}: {_command(path)}"
        ) from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{file}: this is no text, so no list of digests") from None
    except OSError as error:
        raise checkpoint_error(f"{file}: cannot be read ({error})", error) from error
    listing = {}
    for number, line in enumerate(lines, start=1):
        digest, _, name = line.partition(" ")
        if len(digest) != _HEX_LEN or name[:1] not in (" ", "*") or not name[1:]:
            raise CheckpointError(f"{file}: line {number} is not `<sha256>  <file name>`")
        listing[name[1:].removeprefix("./")] = digest.lower()
    return listing


def measure(path: Path) -> dict[str, str]:
    """Return the sha256 of a file, or of every file in a folder but the listing, by its name."""
    if not path.is_dir():
        return {path.name: file_sha256(path)}
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    found = {file.relative_to(path).as_posix(): file_sha256(file) for file in files}
    found.pop(LISTING, None)
    return found


def differences(listed: Mapping[str, str], found: Mapping[str, str]) -> str:
    """Return in words how the files found differ from those listed; empty if they do not."""
    parts = {
        "missing": sorted(listed.keys() - found.keys()),
        "not listed": sorted(found.keys() - listed.keys()),
        "changed or cut short": sorted(n for n in found if listed.get(n, found[n]) != found[n]),
    }
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names)


def _command(path: Path) -> str:
    if path.is_dir():
        return f"find . -type f ! -name {LISTING} -exec sha256sum {{}} + > {LISTING}"
    return f"sha256sum {path.name} > {digest_path(path).name}"
