"""Values from CSV, TSV, JSONL and Parquet files, plain or compressed, as streams.

Invariant: a row is used as it stands, or is told with its place. A user's own file is looked at
as a whole before one row of it is used, so all its rows are read alike.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.parquet import numbered_values
from data_prep.readers import ReadLog, open_binary
from data_prep.text_lines import numbered_lines, plain_rows, quoted_rows

PARQUET = ".parquet"
COMPRESSIONS = ("", ".gz", ".zst")
Lined = tuple[int, dict[str, Any]]


class Dialect(NamedTuple):
    """How a line of a .csv or .tsv file is cut into cells."""

    separator: str
    """One character."""
    has_quotes: bool
    """Whether double quotes hold a cell together, as in CSV; False: they are characters."""
    is_found: bool = False
    """Whether it was found out: then empty cells beyond the header, which spreadsheets leave, are
    no cells."""
    has_separator_line: bool = False
    """Whether the first line is `sep=` and the separator, as spreadsheets write it."""

    @property
    def name(self) -> str:
        """The separator in words."""
        return _SEPARATORS.get(self.separator, repr(self.separator))


_QUOTE_IT = "put a text that holds the separator or a quote into double quotes"
_QUOTES_DO_NOT_FIT = (
    "quotes count as characters here, because they do not fit as those of CSV; take tabs and line "
    "breaks out of the texts, or write .csv or .jsonl"
)
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
_USUAL = {".csv": Dialect(",", True), ".tsv": Dialect("\t", False), ".jsonl": None, PARQUET: None}


def read_table(
    path: str | Path,
    *,
    names: Sequence[str] = (),
    is_own: bool = False,
    notes: Counter[str] | None = None,
    bad: Callable[[int, str], None] | None = None,
) -> Iterator[Lined]:
    """Yield (line, column -> value) for every row of a file, in order.

    A line of a Parquet file is the number of its row.

    Args:
        path: .csv, .tsv, .jsonl or .parquet, each also .gz or .zst.
        names: Columns of a .csv or .tsv file without a header line; empty: its first line has them.
        is_own: A user's own file: separator and quotes are found out. False: commas and quotes in
            .csv, tabs alone in .tsv.
        notes: Gets the number of rows that were read in another way than the ending says.
        bad: Called with line and reason of a row that cannot be read; None: an error.

    Raises:
        ValueError: No such file, unknown format, damage, or no rows; names file and line.
    """
    path = Path(path)
    ending = _ending(path)
    usual = _USUAL[ending]
    dialect = _find_dialect(path, usual) if is_own and usual else usual
    count = 0
    others = _jsonl_rows if ending == ".jsonl" else numbered_values
    for line, values in _csv_rows(path, dialect, names) if dialect else others(path):
        if isinstance(values, dict):
            count += 1
            yield line, values
        elif bad is not None:
            bad(line, values)
        else:
            raise ValueError(f"{place_of(path, line)}: {values}")
    if not count and bad is None:
        raise ValueError(f"{path}: has no rows; one or more are needed")
    if notes is not None and dialect and usual and dialect[:2] != usual[:2]:
        quotes = ", with quotes as in CSV" * (dialect.has_quotes and ending == ".tsv")
        notes[f"rows with columns parted by {dialect.name}s{quotes}"] += count


def is_table(path: Path) -> bool:
    """Return whether a name is that of a .csv, .tsv, .jsonl or .parquet file."""
    return named_ending(path) in _USUAL


def place_of(source: str | Path, line: int) -> str:
    """Return where a row of a file or data set is, for messages."""
    return f"{source}, {line_of(source, line)}"


def line_of(source: str | Path, line: int) -> str:
    """Return which row of a file it is: a Parquet file has no lines but rows."""
    return f"{'row' if named_ending(Path(source)) == PARQUET else 'line'} {line}"


def reached(values: Mapping[str, Any], name: str, *, missing: Any = None) -> Any:
    """Return a column; `meta.text` is `text` inside of `meta` where none is called so."""
    found: Any = values
    for part in [name] if name in values else name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return missing
        found = found[part]
    return found


def named_ending(path: Path) -> str:
    """Return the ending of a name in lower case, with that of a packed file left out."""
    suffixes = ["", *(suffix.lower() for suffix in path.suffixes)]
    return suffixes[-2] if suffixes[-1] in COMPRESSIONS[1:] else suffixes[-1]


def _ending(path: Path) -> str:
    """Return .csv, .tsv, .jsonl or .parquet, by the name of a file."""
    if not path.is_file():
        what = "is a folder; name a file in it" if path.is_dir() else "no such file"
        raise ValueError(f"{path}: {what}")
    ending = named_ending(path)
    if ending not in _USUAL:
        raise ValueError(f"{path}: unknown format; allowed: {' '.join(_USUAL)}, also .gz or .zst")
    return ending


def _find_dialect(path: Path, usual: Dialect) -> Dialect:
    """Return how a user's own file is written.

    The separator is that of a `sep=` line, else the one that cuts the header into most columns, of
    equals the usual one. Quotes count as in CSV, but in a .tsv file with tabs only where every
    quote fits: where the rows with quotes that CSV reads are all as wide as the header, and no
    tab-separated row of the right width would be joined to the next one.
    """
    with closing(file_lines(path)) as lines:
        first = next((text for _, text in lines if text.strip()), "")
    bare = first.strip(' "\r\n')
    if bare.casefold().startswith("sep=") and len(bare) == 5:
        return Dialect(bare[-1], True, is_found=True, has_separator_line=True)
    header = [first.rstrip("\r\n")]
    widths = {
        mark: len(next(csv.reader(header, delimiter=mark), []))
        for mark in (usual.separator, *_SEPARATORS)
    }
    separator = max(widths, key=widths.__getitem__)
    has_quotes = usual.has_quotes or separator != usual.separator or _quotes_fit(path, separator)
    return Dialect(separator, has_quotes, is_found=True)


def _quotes_fit(path: Path, separator: str) -> bool:
    """Return whether a file with quotes reads well as CSV, and better than without quotes.

    The header and the rows that hold a quote tell: others are the same either way, and the width of
    a damaged one says nothing of quotes.
    """
    with closing(file_lines(path)) as lines:
        if not any(_is_quoted(cells) for _, cells in plain_rows(lines, separator)):
            return False
    header, joins_rows, widths = 0, False, set[int]()
    try:
        for width, parts in _quoted_and_plain(path, separator):
            header = header or width
            if not widths or any(is_quoted for _, is_quoted in parts):
                if width != header:
                    return False
                widths |= {width for width, _ in parts}
                joins_rows |= len(parts) > 1
    except ValueError:
        return False
    return not (joins_rows and len(widths) == 1 and widths != {1})


def _quoted_and_plain(path: Path, separator: str) -> Iterator[tuple[int, list[tuple[int, bool]]]]:
    """Yield the width of every row of CSV, and what each of its lines is alone.

    That is a width, and whether a cell begins with a quote.
    """
    quoted = quoted_rows(file_lines(path), path, separator)
    (_, cells), following = next(quoted, (0, [])), next(quoted, None)
    parts: list[tuple[int, bool]] = []
    for line, plain in plain_rows(file_lines(path), separator):
        while following and line >= following[0]:
            yield len(cells), parts
            (_, cells), following, parts = following, next(quoted, None), []
        parts.append((len(plain), _is_quoted(plain)))
    yield len(cells), parts


def _is_quoted(cells: Sequence[str]) -> bool:
    return any(cell.startswith('"') for cell in cells)


def _csv_rows(
    path: Path, dialect: Dialect, names: Sequence[str]
) -> Iterator[tuple[int, dict[str, str] | str]]:
    """Yield the values of each row, or what is wrong with it."""
    lines, separator = file_lines(path), dialect.separator
    has_quotes = dialect.has_quotes
    rows = quoted_rows(lines, path, separator) if has_quotes else plain_rows(lines, separator)
    if dialect.has_separator_line:
        next(rows)
    columns = list(names)
    for line, cells in rows:
        while dialect.is_found and len(cells) > max(1, len(columns)) and not cells[-1].strip():
            cells.pop()
        if not columns:
            columns = [name.strip() for name in cells]
            if len(set(columns)) < len(columns):
                raise ValueError(f"{path}, line {line}: a column name occurs twice: {columns}")
        elif len(cells) == len(columns):
            yield line, dict(zip(columns, cells, strict=True))
        elif names:
            wanted = f"{len(columns)} are needed: {', '.join(columns)}"
            yield line, f"has {len(cells)} columns but {wanted}"
        else:
            advice = _QUOTE_IT if dialect.has_quotes else _QUOTES_DO_NOT_FIT
            yield (
                line,
                f"has {len(cells)} columns, parted by {dialect.name}s, but the first line names "
                f"{len(columns)}; {advice}",
            )


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for line, text in file_lines(path):
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield line, f"is not JSON ({error})"
            continue
        is_row = isinstance(values, dict)
        yield line, values if is_row else "is no JSON object with columns as keys"


def find_file(folder: Path, *names: str) -> Path | None:
    """Return the first of these files that a folder has, whole or packed; None: it has none."""
    paths = (folder / f"{name}{ending}" for name in names for ending in COMPRESSIONS)
    return next((path for path in paths if path.is_file()), None)


def file_lines(path: Path) -> Generator[tuple[int, str]]:
    """Yield (number from 1, line with its end); a file may also end all its lines in CR alone."""
    log = ReadLog()
    with open_binary(path, log) as stream, log.raw or stream:
        yield from numbered_lines(stream, path)
