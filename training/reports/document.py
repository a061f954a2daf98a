"""A report as a document: sections of tables, figures and text, written as HTML or as Markdown.

Invariant: what a report says is decided before this; both forms are made from the same value, text
is escaped here and nowhere else, and a page loads nothing from elsewhere.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from training.reports.figures import COLOURS, GLYPHS, Panel, svg_text

TEMPLATE = "page.html.j2"
NOTHING = "–"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table."""

    text: str
    """Its first line."""
    notes: Sequence[str] = ()
    """Smaller lines below it."""
    flags: Sequence[str] = ()
    """Smaller lines that warn."""
    tone: Literal["plain", "strong", "soft"] = "plain"
    """soft: said by others, such as a published score."""
    is_best: bool = False
    """Whether it is marked as the best of its column."""
    link: str = ""
    """Address that the text leads to; empty: none."""
    series: int | None = None
    """Number of the configuration whose mark in the figures stands before the text."""

    @property
    def markdown(self) -> str:
        """The cell in a Markdown table."""
        around = {"plain": "", "strong": "**", "soft": "*"}[self.tone]
        text = f"[{self.text}]({self.link})" if self.link else f"{around}{self.text}{around}"
        lines = [text + (" ★" if self.is_best else ""), *self.notes, *self.flags]
        return "<br>".join(lines).replace("|", "\\|")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells; the first cell of a row names it."""

    kind: ClassVar[str] = "table"
    heads: Sequence[Cell]
    """Heading of every column."""
    rows: Sequence[Sequence[Cell]]
    """Cells, as many in every row as there are headings."""
    is_words: bool = False
    """Whether cells hold words, which are read from the left."""

    @property
    def markdown(self) -> str:
        """The table with pipes."""
        rule = f"| {' | '.join('---' for _ in self.heads)} |"
        first, *rest = (
            f"| {' | '.join(cell.markdown for cell in row)} |" for row in (self.heads, *self.rows)
        )
        return "\n".join([first, rule, *rest])


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of plain words."""
    plain = [[Cell(text=text) for text in row] for row in (heads, *rows)]
    return Table(heads=plain[0], rows=plain[1:], is_words=True)


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Lines of text."""

    kind: ClassVar[str] = "lines"
    lines: Sequence[str]
    """Prose; in it `*words*` and backticks are Markdown."""
    form: Literal["list", "warning", "note"] = "note"
    """How they are set."""

    @property
    def markdown(self) -> str:
        """The lines; a list with dashes."""
        if self.form == "list":
            return "\n".join(f"- {line}" for line in self.lines)
        return "\n\n".join(self.lines)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One drawing."""

    title: str
    """What is shown."""
    note: str
    """Unit and how to read it."""
    panel: Panel
    """The drawing; the caption says its title."""
    is_wide: bool = False
    """Whether it keeps its width and is scrolled on a narrow screen."""

    @property
    def svg(self) -> str:
        """The drawing as an `svg` element."""
        bare = replace(self.panel, title="", has_legend=False)
        return svg_text(bare, title=f"{self.title}, {self.note}")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Drawings beside each other; Markdown has none, there the PNG stands beside the file."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]
    """In the order of reading."""
    note: str = ""
    """How to read all of them."""
    key: Sequence[str] = ()
    """Names of the series, in the order of their numbers; empty: the drawings say them."""
    markdown: ClassVar[str] = ""


@dataclass(frozen=True, kw_only=True)
class Details:
    """Texts that are opened on demand; Markdown leaves them out."""

    kind: ClassVar[str] = "details"
    title: str
    """What they are."""
    notes: Sequence[str]
    """Prose."""
    texts: Sequence[str]
    """Preformatted."""
    markdown: ClassVar[str] = ""


Block = Table | Lines | Figures | Details


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands below it."""

    title: str
    """The heading; empty: none."""
    blocks: Sequence[Block]
    """In the order of reading."""

    @property
    def anchor(self) -> str:
        """Its address on the page."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True, kw_only=True)
class Document:
    """A whole report."""

    title: str
    """Its heading."""
    sections: Sequence[Section]
    """In the order of reading; the first one needs no title."""

    def markdown(self) -> str:
        """The document as Markdown."""
        parts = [f"# {self.title}"]
        for section in self.sections:
            texts = [block.markdown for block in section.blocks if block.markdown]
            parts += [f"## {section.title}"] if section.title and texts else []
            parts += texts
        return "\n\n".join(parts) + "\n"

    def page(self) -> str:
        """The document as one HTML file."""
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {"prose": prose, "breakable": breakable, "drawing": Markup}
        template = environment.get_template(TEMPLATE)
        return template.render(document=self, colours=COLOURS, glyphs=GLYPHS)


def prose(text: str) -> Markup:
    """Text of a line as HTML, with its `*words*` and backticks."""
    safe = html.escape(text)
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)
    safe = re.sub(r"(?<!\w)\*(\w[^*]*)\*(?!\w)", r"<em>\1</em>", safe)
    return Markup(safe)


def breakable(text: str) -> Markup:
    """Text as HTML that may be broken after the signs inside settings."""
    return Markup(re.sub(r"([_=/](?=\S)|\.(?=[a-z]))", r"\1<wbr>", html.escape(text)))
