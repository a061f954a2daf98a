"""Minimal pairs: two sentences, or contexts of one, of which one is right, from files of rows.

Invariant: every row becomes a pair, or two, or ends the reading with its file and line. Which
columns tell pairs apart is decided by the first row, of groups by that of all files, of paradigms
and of contexts by that of each; another row may not differ.
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
    contexts: tuple[str, str] = ("", "")
    """What stands before the right and before the other sentence and is not scored."""
    target: int = 0
    """Which of the two pairs of a row with two contexts and two targets, from 1; 0: it is one."""

    @property
    def has_contexts(self) -> bool:
        """Whether something stands before a sentence."""
        return any(self.contexts)

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
    context: str = ""
    """Column of what stands before both sentences: it is read, and not scored."""
    paradigm: str = "UID"
    """Column of the name of what a pair tests. Where a file has no UID, the file's name; of rows
    with two contexts and two targets (EWoK) Domain."""
    groups: tuple[str, ...] = ("field", "linguistics_term")
    """Columns that gather paradigms, each shown by itself; field and linguistics_term where there
    are such."""


_USUAL = PairColumns()
_CONTEXTS, _TARGETS = ("Context1", "Context2"), ("Target1", "Target2")
"""Columns of EWoK (Ivanova et al. 2024): a target is likelier behind the context of its number."""
_DOMAIN = "Domain"


def holds_pairs(source: str, columns: PairColumns, *, text: str) -> bool:
    """Return whether a source is a folder, or a table whose first row has what a pair is made of.

    Args:
        source: A folder, a table or another file, or what names none.
        columns: Those of pairs.
        text: Column of a table of texts.

    Raises:
        ValueError: The first row of a table has neither a sentence nor a text.
    """
    path = Path(source)
    if path.is_dir() or _names_sentences(columns):
        return True
    if not path.is_file() or not is_table(path):
        return False
    line, row = next(read_table(path, is_own=True))
    is_pair = any(reached(row, name) is not None for name in (columns.good, columns.bad))
    is_pair = is_pair or _has_targets(row)
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
        layout: _Layout | None = None
        for line, row in read_table(path, is_own=True):
            where = place_of(path, line)
            layout = layout or _layout(row, columns, where)
            found = _of_targets(row, where) if layout.has_targets else _of_row(row, columns, where)
            of_row = _name(row, layout.paradigm, where) if layout.paradigm else _bare_name(path)
            groups = _groups(row, columns, where)
            for good, bad, contexts, target in found:
                pair = Pair(good, bad, str(path), line, of_row, groups, contexts, target)
                _check_groups(pair, pairs[0] if pairs else pair)
                pairs.append(pair)
    return pairs


class _Layout(NamedTuple):
    """What the first row of a file says of the others."""

    has_targets: bool
    """Whether each has two contexts and two targets."""
    paradigm: str
    """Column of the name of what a pair tests; "": there is none."""


def _layout(row: Mapping[str, Any], columns: PairColumns, where: str) -> _Layout:
    has_targets = _has_targets(row) and not _names_sentences(columns)
    if has_targets and columns.context:
        raise ValueError(
            f"{where}: --context {columns.context} would do nothing, as the contexts stand under "
            f"{_CONTEXTS[0]!r} and {_CONTEXTS[1]!r}; leave it out, or name the sentences by --good "
            "and --bad"
        )
    if columns.paradigm != _USUAL.paradigm:
        return _Layout(has_targets, columns.paradigm)
    usual = _DOMAIN if has_targets else columns.paradigm
    return _Layout(has_targets, usual if usual in row else "")


_Found = tuple[str, str, tuple[str, str], int]
"""The right sentence, the other, their contexts, and the number of the target."""


def _has_targets(row: Mapping[str, Any]) -> bool:
    return all(name in row for name in (*_CONTEXTS, *_TARGETS))


def _names_sentences(columns: PairColumns) -> bool:
    """Return whether the columns of sentences were chosen."""
    return (columns.good, columns.bad) != (_USUAL.good, _USUAL.bad)


def _of_row(row: Mapping[str, Any], columns: PairColumns, where: str) -> list[_Found]:
    good, bad = (_sentence(row, name, where) for name in (columns.good, columns.bad))
    if good.split() == bad.split():
        raise ValueError(f"{where}: both sentences are {good!r}; a pair differs in one")
    if not columns.context:
        return [(good, bad, ("", ""), 0)]
    context = reached(row, columns.context)
    if not isinstance(context, str):
        raise ValueError(
            f"{where}: has no context under {columns.context!r}; it has {_columns(row)}. Name its "
            "column by --context, and leave the text empty where there is none"
        )
    return [(good, bad, (context, context), 0)]


def _of_targets(row: Mapping[str, Any], where: str) -> list[_Found]:
    """Return two pairs: each target behind its own context and behind the other one."""
    contexts, targets = (
        tuple(_sentence(row, name, where, hint="") for name in names)
        for names in (_CONTEXTS, _TARGETS)
    )
    for what, (one, other) in {"contexts": contexts, "targets": targets}.items():
        if one.split() == other.split():
            raise ValueError(f"{where}: both {what} are {one!r}; they must differ")
    (first, second), (one, other) = contexts, targets
    return [(one, one, (first, second), 1), (other, other, (second, first), 2)]


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


def _sentence(
    row: Mapping[str, Any],
    name: str,
    where: str,
    hint: str = ". Name the columns of the right and the wrong sentence by --good and --bad",
) -> str:
    found = reached(row, name)
    if not isinstance(found, str):
        raise ValueError(f"{where}: has no sentence under {name!r}; it has {_columns(row)}{hint}")
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
