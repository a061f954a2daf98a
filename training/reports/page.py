"""A report as a page or as Markdown: templates say what it says, once, and two sets of macros how.

Invariant: text is escaped by the templates and nowhere else, and a page loads nothing from
elsewhere.
"""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from training.reports.figures import COLOURS, GLYPHS

NOTHING = "–"
Form = Literal["html", "md"]
Rows = list[list["Cell | str"]]
"""Of a table: the first row has the headings, the first cell of each names it."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table: its first line, smaller notes below it and flags that warn.

    A soft one is said by others, such as a published score; `series` is the number of the
    configuration whose mark in the figures stands before the text.
    """

    text: str
    notes: Sequence[str] = ()
    flags: Sequence[str] = ()
    tone: Literal["plain", "strong", "soft"] = "plain"
    is_best: bool = False
    link: str = ""
    series: int | None = None

    def __str__(self) -> str:
        """The cell in a Markdown table."""
        around = {"plain": "", "strong": "**", "soft": "*"}[self.tone]
        text = f"[{self.text}]({self.link})" if self.link else f"{around}{self.text}{around}"
        return "<br>".join([text + (" ★" if self.is_best else ""), *self.notes, *self.flags])


def render(template: str, form: Form, **content: Any) -> str:
    """A report in one of its forms.

    Args:
        template: File beside this one that says what the report says.
        form: How it is written.
        content: What the template names.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=form == "html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "prose": partial(_prose, form=form),
        "breakable": _breakable,
        "paragraphs": _paragraphs,
        "anchor": _anchor,
        "drawing": Markup,
        "cells": lambda row: [Cell(text=c) if isinstance(c, str) else c for c in row],
        "headings": lambda body: re.findall(r"<h2>(.*?)</h2>", body),
    }
    content |= {"colours": COLOURS, "glyphs": GLYPHS, "nothing": NOTHING}
    text = environment.get_template(template).render(forms=f"{form}.j2", **content).strip() + "\n"
    return text if form == "html" else re.sub(r"\n{3,}", "\n\n", text)


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names with commas, at most some of them."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def pairs(found: Mapping[str, Any]) -> str:
    """Names with what belongs to them, such as packages with versions."""
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _paragraphs(text: str) -> list[str]:
    """The paragraphs of some lines of a template, each on one line."""
    parts = re.split(r"\n\s*\n", text.strip())
    return [type(text)(re.sub(r"[ \n]+", " ", part)) for part in parts if part]


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", html.unescape(title).lower()).strip("-")


def _prose(text: str, *, form: Form) -> str:
    """Text with its `*words*` and backticks as HTML; as Markdown it is what it is."""
    if form == "md":
        return text
    safe = str(text) if isinstance(text, Markup) else html.escape(text)
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)
    return Markup(re.sub(r"(?<!\w)\*(\w[^*]*)\*(?!\w)", r"<em>\1</em>", safe))


def _breakable(text: str) -> Markup:
    """Text as HTML that may be broken after the signs inside settings."""
    return Markup(re.sub(r"([_=/](?=\S)|\.(?=[a-z]))", r"\1<wbr>", html.escape(text)))
