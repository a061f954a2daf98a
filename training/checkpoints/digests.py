"""The digest beside every checkpoint, a text that `sha256sum -c` reads: made, read, compared.

Invariant: a digest file lists one state of a checkpoint completely, or, while a checkpoint is
being replaced by another of the same step, both states, the new one first.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.manifest import file_sha256

DIGEST_SUFFIX = ".sha256"
_SEPARATOR = "# or, until the new checkpoint has replaced the old one:\n"
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
    """Return the path of the digest file of a checkpoint."""
    return path.with_name(path.name + DIGEST_SUFFIX)


def digest_text(listings: Sequence[Mapping[str, str]]) -> str:
    """Return the text of a digest file.

    Args:
        listings: For each state that counts as valid, file name to sha256 (hex); a name is
            relative to the folder of the digest file.
    """
    return _SEPARATOR.join(
        "".join(f"{digest}  {name}\n" for name, digest in sorted(listing.items()))
        for listing in listings
    )


def read_listings(path: Path) -> list[dict[str, str]]:
    """Return what the digest file of a checkpoint lists, one table for each valid state.

    Raises:
        CheckpointError: There is no digest file, it cannot be read, or a line of it is broken.
    """
    file = digest_path(path)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: it has no digest ({file.name}), so nothing says that it is whole. "
            f"If you trust it, make one in its folder: {_command(path)}"
        ) from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{file}: this is no text, so no digest file") from None
    except OSError as error:
        raise checkpoint_error(f"{file}: cannot be read ({error})", error) from error
    listings: list[dict[str, str]] = [{}]
    for number, line in enumerate(lines, start=1):
        if line.startswith("#"):
            listings.append({})
            continue
        digest, _, name = line.partition(" ")
        if len(digest) != _HEX_LEN or name[:1] not in (" ", "*") or not name[1:]:
            raise CheckpointError(
                f"{file}: line {number} is not `<sha256>  <file name>`; the digest file is broken"
            )
        listings[-1][name[1:].removeprefix("./")] = digest.lower()
    return [listing for listing in listings if listing] or [{}]


def measure(path: Path, *, name: str) -> dict[str, str]:
    """Return the sha256 of a file, or of every file in a folder, under the name it is listed by."""
    if not path.is_dir():
        return {name: file_sha256(path)}
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    return {f"{name}/{file.relative_to(path).as_posix()}": file_sha256(file) for file in files}


def differences(path: Path, *, listed: Mapping[str, str], found: Mapping[str, str]) -> str:
    """Return what is wrong with a checkpoint in words, or an empty text if nothing is."""
    if dict(listed) == dict(found):
        return ""
    if not path.is_dir():
        return _file_difference(path, listed)
    parts = {
        "missing": sorted(set(listed) - set(found)),
        "not in the digest file": sorted(set(found) - set(listed)),
        "changed or cut short": sorted(n for n in found if listed.get(n, found[n]) != found[n]),
    }
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names)


def _file_difference(path: Path, listed: Mapping[str, str]) -> str:
    size = path.stat().st_size
    if path.name not in listed:
        return (
            f"its digest file is for {', '.join(listed) or 'nothing'}, not for {path.name}; "
            f"if the file was renamed, make a new one in its folder: {_command(path)}"
        )
    if size == 0:
        return "the file is empty"
    if not zipfile.is_zipfile(path):
        return f"the file is cut short or overwritten ({size} bytes, without an archive's end)"
    return "its content is not what was written (another sha256 than in its digest file)"


def _command(path: Path) -> str:
    return f"sha256sum {path.name} > {path.name}{DIGEST_SUFFIX}"
