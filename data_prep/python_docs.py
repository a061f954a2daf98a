"""The built-in corpus: English prose of Python's documentation strings, a document per module.

Source files are parsed, never imported. Code samples, tables, type lines and markup are removed.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data_prep.config import PythonDocsSource

MAX_SOURCE_BYTES = 1 << 20
MIN_PARAGRAPHS = 3
_SKIPPED_FOLDERS = {
    *("site-packages", "dist-packages", "test", "tests", "testing", "__pycache__"),
    *("idlelib", "lib2to3", "turtledemo", "_vendor", "vendor", "third_party", "externals"),
}
_PARAM = re.compile(r"^:(?:param|arg|returns?|raises?|ivar|var)\b[^:]*:\s*")
_TYPED_NAME = re.compile(r"^[*\w.,` \\]{1,50}(?:\s:\s|:$|\s:$)")
_GOOGLE_ARG = re.compile(r"^\*{0,2}[A-Za-z_]\w*(?:,\s*\w+)*\s*(?:\([^)]*\))?\s*:\s+")
_MARKUP = re.compile(
    r"^(?:\.\. |>>>|\.\.\.|\||\+-|@|\$|:(?:type|rtype|vartype|meta)\b|(?:Parameters|"
    r"Other Parameters|Returns?|Yields?|Raises|Warns|Warnings?|See [Aa]lso|Notes?|References|"
    r"Examples?|Attributes|Methods|Args|Arguments|Keyword [Aa]rg\w*|Shape|Inputs?|Outputs?|Usage|"
    r"Explanation|Hints?)\s*:*$)"
)
_UNDERLINE = re.compile(r"^([-=~^*#\"'])\1{2,}$")
_MARKED = (
    re.compile(r":[a-zA-Z:+]+:`~?\.?([^`<]*?)(?:\s*<[^`>]*>)?`"),
    re.compile(r"`{1,2}([^`]*)`{1,2}_{0,2}"),
    re.compile(r"\*{1,2}(\w[^*\n]*?)\*{1,2}"),
)
"""Roles, quoted code and emphasis: what is inside stays."""
_WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*[.,;:!?)\"']*$")
_ITEM = re.compile(r"^(?:[-*+•]|\d+[.)])\s+")
_LITERAL = re.compile(r"^\.\. \s*(?:code|math|plot|image|figure|testcode|doctest|parsed)")


def module_files(source: PythonDocsSource, counters: Counter[str]) -> Iterator[list[Path]]:
    """Yield the source files of each package in turn, sorted; missing packages are counted."""
    for package in source.packages:
        root = _package_root(package)
        if root is None:
            counters["packages_missing"] += 1
            continue
        if root.is_file():
            yield [root]
            continue
        yield sorted(path for path in root.rglob("*.py") if not _is_skipped(path.relative_to(root)))


def _package_root(package: str) -> Path | None:
    if package == "stdlib":
        return Path(sysconfig.get_path("stdlib"))
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:  # the package of a submodule
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    origin = Path(spec.origin)
    return origin.parent if origin.name == "__init__.py" else origin


def _is_skipped(path: Path) -> bool:
    return not _SKIPPED_FOLDERS.isdisjoint(path.parts[:-1]) or path.name.startswith("test_")


def read_module(path: Path, counters: Counter[str]) -> str:
    """Return the source text of a module; empty, and counted, if it is too large or unreadable."""
    try:
        if path.stat().st_size > MAX_SOURCE_BYTES:
            counters["modules_too_large"] += 1
            return ""
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        counters["modules_unreadable"] += 1
        return ""


def code_prose(code: str, counters: Counter[str]) -> str:
    """Return the prose of the documentation strings of a source text; empty if there is little."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        counters["modules_unreadable"] += 1
        return ""
    paragraphs: dict[str, None] = {}
    for text in _docstrings(tree):
        paragraphs.update(dict.fromkeys(prose_paragraphs(text)))
    return "\n\n".join(paragraphs) if len(paragraphs) >= MIN_PARAGRAPHS else ""


def _docstrings(node: ast.AST) -> Iterator[str]:
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        text = ast.get_docstring(node, clean=True)
        if text:
            yield text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield from _docstrings(child)


def prose_paragraphs(docstring: str) -> list[str]:
    """Return the paragraphs of English prose of a cleaned documentation string."""
    found: list[str] = []
    for lines in _blocks(docstring.expandtabs().split("\n")):
        text = " ".join(lines)
        for marked in _MARKED:
            text = marked.sub(r"\1", text)
        text = " ".join(text.replace("::", ":").split())
        if _is_prose(text):
            found.append(text)
    return found


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Yield groups of lines that form one paragraph, code and markup left out."""
    block: list[str] = []
    skip_deeper_than = -1
    in_fence = in_doctest = False
    for raw, following in zip(lines, [*lines[1:], ""], strict=True):
        line = raw.strip()
        indent = len(raw) - len(raw.lstrip())
        if line.startswith("```"):
            in_fence = not in_fence
            continue
        in_doctest = bool(line) and (in_doctest or line.startswith(">>>"))
        if line and indent <= skip_deeper_than:
            skip_deeper_than = -1
        if in_fence or in_doctest or (skip_deeper_than >= 0 and line):
            continue
        if not line or _is_markup(line, following.strip()):
            if _LITERAL.match(line):
                skip_deeper_than = indent
            yield block
            block = []
            continue
        bare = _PARAM.sub("", _ITEM.sub("", line))
        bare = _GOOGLE_ARG.sub("", bare) if indent else bare
        if bare != line:
            yield block
            block = []
        block.append(bare)
        if line.endswith("::"):
            skip_deeper_than = indent
    yield block


def _is_markup(line: str, following: str) -> bool:
    return (
        bool(_MARKUP.match(line))
        or not any(character.isalpha() for character in line)
        or (len(line) < 60 and bool(_UNDERLINE.match(following)))
        or (bool(_TYPED_NAME.match(line)) and not line.endswith((".", ",")))
    )


def _is_prose(text: str) -> bool:
    """Return whether a text has five words or more, three of four of them plain, and an end."""
    words = text.split()
    if len(words) < 5 or not text.endswith((".", "!", "?", ":", ")", '"', "'")):
        return False
    return sum(bool(_WORD.match(word.lstrip("(\"'"))) for word in words) >= 0.75 * len(words)
