"""The one reader of YAML that people write: a key that stands twice is an error, 1e-4 a number.

Invariant: nothing is lost without a word; YAML itself would keep the last of two equal keys.
"""

import re
from pathlib import Path
from typing import Any

import yaml

_EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+")


class _Yaml11(yaml.SafeLoader):
    """PyYAML's loader, which takes 1e-4 for a word."""


class _Loader(_Yaml11):
    """The same with YAML 1.2's numbers."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def load_yaml(text: str, *, yaml_1_1: bool = False) -> Any:
    """Return the content of a YAML text.

    Args:
        text: One document.
        yaml_1_1: Read 1e-4 as a word, as W&B does.

    Raises:
        ValueError: It is no YAML, or a key stands twice in a mapping; one line.
    """
    loader = (_Yaml11 if yaml_1_1 else _Loader)(text)
    try:
        node = loader.get_single_node()
        _check_keys(node)
        return None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"is not valid YAML ({' '.join(str(error).split())})") from error
    finally:
        loader.dispose()


def read_yaml(path: str | Path, *, yaml_1_1: bool = False) -> Any:
    """Return the content of a YAML file; a pipe is read like a file.

    Raises:
        ValueError: It cannot be read, is no YAML, or a key stands twice; one line with the path.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ValueError(f"{path}: {reason}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start})") from error
    try:
        return load_yaml(text, yaml_1_1=yaml_1_1)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_keys(text: str) -> None:
    """Refuse a text of which a reader would lose something; what is no YAML is left to it.

    Raises:
        yaml.YAMLError: A key stands twice in a mapping.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return
    _check_keys(node)


def _check_keys(root: yaml.Node | None) -> None:
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _check_mapping(node)
            waiting += [value for pair in node.value for value in pair]
        else:
            waiting += node.value


def _check_mapping(node: yaml.MappingNode) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        name, line = (key.tag, key.value), key.start_mark.line + 1
        if name in lines:
            places = f"line {lines[name]}" + (f" and line {line}" if line != lines[name] else "")
            raise yaml.YAMLError(f"{key.value!r} stands there twice, in {places}")
        lines[name] = line
