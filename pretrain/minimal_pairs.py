"""Minimal pairs: two sentences that differ in little, of which one is right, from files of rows.

Invariant: every row becomes a pair or ends the reading with its file and line. Which columns tell
pairs apart is decided by the first row, of groups by that of all files, of paradigms by that of
each; another row may not differ.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.table_rows import is_table, place_of, reached, read_table


class Pair(NamedTuple):
    """One pair and where it belongs."""

    good: str
    """The sentence that is right."""
    bad: str
    """The one that is not."""
    file: str
    """Where it stands."""
    line: int
    """Of that file, from 1; of a Parquet file the row."""
    paradigm: str
    """Pairs that are made alike: a mean over paradigms counts each of them once."""
    groups: dict[str, str]
    """Column -> value, for columns that gather paradigms."""

    @property
    def place(self) -> str:
        """File and line, for messages."""
        return place_of(self.file, self.line)


@dataclass(frozen=True, kw_only=True)
class PairColumns:
    """Which columns of a row say what; the names of BLiMP (Warstadt et al. 2020)."""

    good: str = "sentence_good"
    """Column of the sentence that is right, in minimal pairs."""
    bad: str = "sentence_bad"
    """Column of the one that is not."""
    paradigm: str = "UID"
    """Column of the name of what a pair tests. Where a file has no UID, the file's name."""
    groups: tuple[str, ...] = ("field", "linguistics_term")
    """Columns that gather paradigms, each shown by itself; field and linguistics_term where there
    are such."""


_USUAL = PairColumns()


def holds_pairs(source: str, columns: PairColumns, *, text: str) -> bool:
    """Return whether a source is a folder, or a table whose first row has a sentence of a pair.

    Args:
        source: A folder, a table or another file, or what names none.
        columns: Those of pairs.
        text: Column of a table of texts.

    Raises:
        ValueError: The first row of a table has neither a sentence nor a text.
    """
    path = Path(source)
    if path.is_dir() or (columns.good, columns.bad) != (_USUAL.good, _USUAL.bad):
        return True
    if not path.is_file() or not is_table(path):
        return False
    line, row = next(read_table(path, is_own=True))
    is_pair = any(reached(row, name) is not None for name in (columns.good, columns.bad))
    if not is_pair and reached(row, text) is None:
        raise ValueError(
            f"{place_of(path, line)}: has neither a text under {text!r} nor sentences under "
            f"{columns.good!r} and {columns.bad!r}; it has {_columns(row)}. Name the column of the "
            "text by --field, or those of the right and the wrong sentence by --good and --bad"
        )
    return is_pair


def read_pairs(source: str, columns: PairColumns) -> list[Pair]:
    """Return all pairs of a file, or of the tables of a folder, in the order of their names.

    Raises:
        ValueError: No such file or no table; a row that is no pair, with its file and line.
    """
    pairs: list[Pair] = []
    for path in _tables(Path(source)):
        has_paradigm = columns.paradigm != _USUAL.paradigm
        is_first = True
        for line, row in read_table(path, is_own=True):
            where = place_of(path, line)
            if is_first:
                has_paradigm = has_paradigm or columns.paradigm in row
                is_first = False
            good, bad = (_sentence(row, name, where) for name in (columns.good, columns.bad))
            if good.split() == bad.split():
                raise ValueError(f"{where}: both sentences are {good!r}; a pair differs in one")
            paradigm = _name(row, columns.paradigm, where) if has_paradigm else _bare_name(path)
            pair = Pair(good, bad, str(path), line, paradigm, _groups(row, columns, where))
            _check_groups(pair, pairs[0] if pairs else pair)
            pairs.append(pair)
    return pairs


def _tables(path: Path) -> list[Path]:
    """Return the file itself, or the tables of a folder."""
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.is_file() and is_table(file))
    if not found:
        below = sorted({str(file.parent) for file in path.rglob("*") if is_table(file)})
        hint = f"; there are some in {', '.join(below)}" if below else ""
        raise ValueError(
            f"{path} holds no .jsonl, .csv, .tsv or .parquet file; give a folder of minimal pairs "
            f"with one file for each paradigm{hint}"
        )
    return found


def _bare_name(path: Path) -> str:
    """Return the name of a file without its endings."""
    return path.name.partition(".")[0] or path.name


def _sentence(row: Mapping[str, Any], name: str, where: str) -> str:
    found = reached(row, name)
    if not isinstance(found, str):
        raise ValueError(
            f"{where}: has no sentence under {name!r}; it has {_columns(row)}. Name the columns of "
            "the right and the wrong sentence by --good and --bad"
        )
    if not found.strip():
        raise ValueError(f"{where}: the sentence under {name!r} is empty")
    return found


def _name(row: Mapping[str, Any], column: str, where: str) -> str:
    found = reached(row, column)
    if found is None or not str(found).strip():
        raise ValueError(f"{where}: has nothing under {column!r}; it has {_columns(row)}")
    return str(found)


def _columns(row: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, row)) or "no columns"


def _groups(row: Mapping[str, Any], columns: PairColumns, where: str) -> dict[str, str]:
    is_usual = columns.groups == _USUAL.groups
    wanted: Iterator[str] = iter(columns.groups)
    return {name: _name(row, name, where) for name in wanted if not is_usual or name in row}


def _check_groups(pair: Pair, first: Pair) -> None:
    """Refuse a pair that another column gathers than the first one."""
    for name in {*first.groups} ^ {*pair.groups}:
        has, lacks = (pair, first) if name in pair.groups else (first, pair)
        raise ValueError(
            f"{lacks.place}: has no {name!r}, which {has.place} has; fill it in everywhere, or "
            "leave it out of --groups"
        )
