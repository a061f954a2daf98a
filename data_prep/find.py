"""The text files that a path names: the same for a folder and a glob, each once, in order.

Hidden and system files are left out; whatever is left out is counted, never passed over in silence.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

FORMATS = (".txt", ".jsonl", ".parquet")
COMPRESSIONS = ("", ".gz", ".zst")
HIDDEN = "hidden or of the system"
_SYSTEM = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir"}


def text_format(path: str | Path) -> str:
    """Return `.txt`, `.jsonl` or `.parquet`, or an empty string for other files."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else ""


def shown(path: str | Path) -> str:
    r"""Return a path for people: bytes of a name that are no UTF-8 as `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def find_files(path: str) -> list[Path]:
    """Return the text files of a file name, folder or glob, sorted, each once.

    Raises:
        ValueError: Nothing there, no file of a known format, or a named file of another format.
        OSError: A folder cannot be looked into.
    """
    return search_files(path)[0]


def search_files(path: str) -> tuple[list[Path], Counter[str]]:
    """Return what `find_files` does, and how many files were left out by ending or reason.

    Links are followed; one that leads back to a folder above it is not, and a file that several
    names lead to is read once, under the first.
    """
    allowed = f"{' '.join(FORMATS)}, each also .gz or .zst"
    root = Path(path).expanduser()
    if root.is_file():
        if not text_format(root):
            raise ValueError(f"source path {shown(path)}: unknown format; allowed: {allowed}.")
        return [root], Counter()
    hidden: set[str] = set()
    if root.is_dir():
        found = _expand(root, ["**", "*"], hidden)
    else:
        start, parts = (Path(root.anchor), root.parts[1:]) if root.anchor else (Path(), root.parts)
        found = _expand(start, [*parts, "*"] if parts[-1:] == ("**",) else list(parts), hidden)
    files: dict[str, Path] = {}
    left_out: Counter[str] = Counter()
    for item in sorted(set(found)):
        if item.is_dir():
            continue
        if not item.is_file():
            left_out["broken link" if item.is_symlink() else "no ordinary file"] += 1
        elif text_format(item):
            files.setdefault(os.path.realpath(item), item)
        else:
            left_out[shown(item.suffix.lower()) or "without ending"] += 1
    left_out[HIDDEN] += len(hidden)
    if not files:
        rest = f" Left out there: {left_out_words(left_out)}." if +left_out else ""
        raise ValueError(
            f"source path {shown(path)}: no such file, or no text file found there; "
            f"give a file, a folder or a glob of {allowed}.{rest}"
        )
    return list(files.values()), +left_out


def left_out_words(left_out: Counter[str]) -> str:
    """Return such as `5 files (3 .csv, 2 hidden or of the system)`."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted((+left_out).items()))
    total = left_out.total()
    return f"{total:,} file{'s' if total > 1 else ''} ({kinds})"


def _expand(
    folder: Path, parts: list[str], hidden: set[str], above: frozenset[str] = frozenset()
) -> Iterator[Path]:
    """Yield what matches a pattern below a folder; `above` holds the folders that `**` passed."""
    if not parts:
        yield folder
        return
    first, *rest = parts
    if first != "**" and (not glob.has_magic(first) or os.path.lexists(folder / first)):
        if os.path.lexists(folder / first):
            yield from _expand(folder / first, rest, hidden)
        return
    if not folder.is_dir():
        return
    if first == "**":
        above |= {os.path.realpath(folder)}
        yield from _expand(folder, rest, hidden)
    for name in sorted(os.listdir(folder)):
        item = folder / name
        if first != "**" and not fnmatch.fnmatch(name, first):
            continue
        if name.lower() in _SYSTEM or (name.startswith(".") and not first.startswith(".")):
            if first != "**" or item.is_dir():
                hidden.add(str(item))
        elif first != "**":
            yield from _expand(item, rest, hidden)
        elif item.is_dir() and os.path.realpath(item) not in above:
            yield from _expand(item, parts, hidden, above)
