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
    "AutoModelForSequenceClassification": "modeling_ponet_tasks.PoNetForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_ponet_tasks.PoNetForTokenClassification",
    "AutoModelForQuestionAnswering": "modeling_ponet_tasks.PoNetForQuestionAnswering",
    "AutoModelForMultipleChoice": "modeling_ponet_tasks.PoNetForMultipleChoice",
}
"""Auto class -> file and class in the folder: the `auto_map` of config.json."""
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
        name = f"{_flat_name(module)}.py"
        if name not in copies:
            text, imported = _flattened(module)
            copies[name] = _HEADER.format(module=module, version=ponet.__version__) + text
            waiting += imported
    return copies


def source_file(module: str) -> Path:
    """Return the file of a module of this package."""
    path = Path(ponet.__file__).parent.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _flat_name(module: str) -> str:
    return module.removeprefix("ponet.hub.").replace(".", "_")


def _flattened(module: str) -> tuple[str, list[str]]:
    """Return the text of a module with imports inside one folder, and what it imports of ours.

    What a module imports from its own package is modules beside it, each in a line of its own:
    they are imported as such, and transformers finds their files by a second line.
    """
    lines = source_file(module).read_text(encoding="utf-8").splitlines(keepends=True)
    package, imported = module.rpartition(".")[0], []
    for node in ast.walk(ast.parse("".join(lines))):
        if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith("ponet"):
            continue
        source, first = str(node.module), node.lineno - 1
        if source != package:
            imported.append(source)
            lines[first] = lines[first].replace(f"from {source} ", f"from .{_flat_name(source)} ")
            continue
        [alias] = node.names
        imported.append(f"{source}.{alias.name}")
        flat = _flat_name(imported[-1])
        lines[first] = (
            f"from . import {flat} as {alias.name}\n"
            f"from .{flat} import __doc__ as _{alias.name}_doc\n"
        )
    return "".join(lines), imported
