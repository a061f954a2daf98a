"""Copies of the package's model code beside exported weights, for `trust_remote_code=True`.

Invariant: a copy differs from the module it comes from in its first lines and in the form of its
imports, and in nothing else. transformers finds the files of a model by the form
`from .name import`, in one folder, so `ponet.pooling.plan` becomes `ponet_pooling_plan.py`.
"""

import ast
import functools
import json
from pathlib import Path

import ponet
from ponet.weight_files import CONFIG_NAME, read_json

CLASSES = {
    "AutoConfig": "configuration_ponet.PoNetHubConfig",
    "AutoModel": "modeling_ponet.PoNetModel",
    "AutoModelForMaskedLM": "modeling_ponet.PoNetForMaskedLM",
    "AutoModelForPreTraining": "modeling_ponet.PoNetForPreTraining",
    "AutoModelForSequenceClassification": "modeling_ponet.PoNetForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_ponet.PoNetForTokenClassification",
}
"""Auto class -> file and class in the folder: the `auto_map` of config.json."""

_PACKAGE = Path(ponet.__file__).parent
_HEADER = """\
# Copy of {module}, ponet {version}, SPDX-License-Identifier: Apache-2.0
# Written by `python -m ponet export`; a change belongs into the package, not here.
"""


def write_code(folder: str | Path) -> list[str]:
    """Make a saved PoNet folder load without this package, and return the files written.

    `save_pretrained` writes configuration and weights; this adds the code and names it in
    config.json. A folder from `python -m ponet export` has it already.

    Args:
        folder: Holds the config.json of a PoNet model.

    Raises:
        ValueError: If there is no config.json of a PoNet model.
    """
    target = Path(folder)
    path = target / CONFIG_NAME
    values = read_json(path) if path.is_file() else {}
    if values.get("model_type") != "ponet":
        raise ValueError(
            f"{path} is no configuration of a PoNet model (model_type "
            f"{values.get('model_type')!r}); give a folder that save_pretrained wrote"
        )
    copies = code_files()
    for name, text in copies.items():
        (target / name).write_text(text, encoding="utf-8")
    values["auto_map"] = CLASSES
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return sorted(copies)


@functools.cache
def code_files() -> dict[str, str]:
    """Return the text of every copied file by its name; made once, not to be changed."""
    waiting = sorted({"ponet.hub." + place.partition(".")[0] for place in CLASSES.values()})
    copies: dict[str, str] = {}
    while waiting:
        module = waiting.pop()
        name = _flat_name(module) + ".py"
        if name not in copies:
            text, imported = _flattened(module)
            copies[name] = _HEADER.format(module=module, version=ponet.__version__) + text
            waiting += imported
    return copies


def _flat_name(module: str) -> str:
    parts = module.split(".")
    return parts[-1] if parts[:2] == ["ponet", "hub"] else "_".join(parts)


def _source_file(module: str) -> Path | None:
    """Return the file of a module of this package, or None if there is no such module."""
    path = _PACKAGE.joinpath(*module.split(".")[1:])
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)


def _flattened(module: str) -> tuple[str, list[str]]:
    """Return the text of a module with imports inside one folder, and what it imports of ours."""
    path = _source_file(module)
    assert path is not None, module
    text = path.read_text(encoding="utf-8")
    lines, imported = text.splitlines(keepends=True), []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            assert all(alias.name.split(".")[0] != "ponet" for alias in node.names), module
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] != "ponet":
            continue
        first = node.lineno - 1
        found = _submodules(node)
        if found:
            assert first + 1 == node.end_lineno, f"{module}: one line per imported module"
            lines[first] = "".join(_import_of_module(*pair) for pair in found)
        else:
            old, new = f"from {node.module} ", f"from .{_flat_name(str(node.module))} "
            assert lines[first].count(old) == 1, module
            lines[first] = lines[first].replace(old, new)
        imported += [name for name, _ in found] or [str(node.module)]
    return "".join(lines), imported


def _submodules(node: ast.ImportFrom) -> list[tuple[str, str]]:
    """Return (module, name it gets) where an import names modules, not their contents."""
    own_names = _imported_names(str(node.module))  # such a name hides a module of the same name
    found = [
        (f"{node.module}.{alias.name}", alias.asname or alias.name)
        for alias in node.names
        if alias.name not in own_names and _source_file(f"{node.module}.{alias.name}") is not None
    ]
    assert len(found) in (0, len(node.names)), ast.dump(node)
    return found


def _imported_names(module: str) -> set[str]:
    path = _source_file(module)
    assert path is not None, module
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def _import_of_module(module: str, name: str) -> str:
    """Return the import of a module as such; transformers finds its file by the second line."""
    flat = _flat_name(module)
    return f"from . import {flat} as {name}\nfrom .{flat} import __doc__ as _{name}_doc\n"
