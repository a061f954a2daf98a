"""Copied code: in step with the package, and enough without it."""

import ast
import importlib
import json
import os
import subprocess
import sys
import textwrap
import types

import pytest
import torch
from ponet_hub_models import make_export, make_model
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")

from ponet.hub import PoNetHubConfig, configuration_ponet, standalone  # noqa: E402 (transformers may be missing)
from ponet.hub.huggingface import (  # noqa: E402
    SpecialTokens,
    probe_batch,
)

TOKENS = SpecialTokens(cls_token_id=2, sep_token_id=3)
WITHOUT_PACKAGE = """
    import sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {"ponet", "data_prep", "pretrain", "finetune", "triton"}:
                raise ModuleNotFoundError(f"{name} is not to be had here", name=name)

    sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def export(tmp_path):
    return make_export(tmp_path)


def body_without_imports(text):
    """What a module does, imports and their order aside."""
    tree = ast.parse(text)
    nodes = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    return ast.dump(ast.Module(nodes, []))


def test_every_copy_says_what_its_module_says():
    modules = {}
    for name, text in standalone.code_files().items():
        module = text.split(",", 1)[0].removeprefix("# Copy of ")
        source = standalone.source_file(module).read_text(encoding="utf-8")
        assert body_without_imports(text) == body_without_imports(source), name
        modules[name] = module
    assert "ponet.pooling.eager" in modules.values()
    assert not any("triton" in name for name in modules)


def test_copies_import_nothing_but_each_other_torch_and_transformers():
    copies = standalone.code_files()
    allowed = {"torch", "transformers", *sys.stdlib_module_names}
    for name, text in copies.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, name
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert node.module.split(".")[0] in allowed, name
            elif isinstance(node, ast.ImportFrom):
                files = [node.module] if node.module else [alias.name for alias in node.names]
                assert {f"{file}.py" for file in files} <= set(copies), name


def test_an_older_transformers_is_told_which_version_is_needed(monkeypatch, repository):
    old = types.ModuleType("transformers")
    old.__version__ = "4.57.1"
    monkeypatch.setitem(sys.modules, "transformers", old)
    text = standalone.code_files()["configuration_ponet.py"]
    oldest = configuration_ponet.OLDEST_TRANSFORMERS
    with pytest.raises(ImportError, match=f"needs transformers {oldest} or newer, and 4.57.1 is"):
        exec(
            compile(text.replace("from .ponet_", "from ponet."), "copy", "exec"),
            {"__name__": "x"},
        )
    assert f'"transformers>={oldest}"' in (repository / "pyproject.toml").read_text()


def test_transformers_finds_every_copy(export):
    from transformers.dynamic_module_utils import get_relative_import_files

    folder, _ = export
    classes = json.loads((folder / "config.json").read_text())["auto_map"].values()
    found = {folder / f"{place.partition('.')[0]}.py" for place in classes}
    found |= {folder / file for path in found for file in get_relative_import_files(path)}
    assert {path.name for path in found} == {path.name for path in folder.glob("*.py")}


def test_copies_compute_what_the_package_computes(export, monkeypatch):
    folder, model = export
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(folder.parent)
    heads = importlib.import_module("hf.modeling_ponet")
    # transformers may load the configuration's code apart from the model's: other classes.
    config = PoNetHubConfig.from_pretrained(folder)
    twin = heads.PoNetForPreTraining.from_pretrained(folder, config=config).eval()
    assert twin.ponet.encoder.config.kernels == "eager"
    batch = probe_batch(model.config, TOKENS, shape=(3, 21))
    with torch.no_grad():
        theirs = twin(batch.input_ids, batch.mask, batch.token_type_ids)
        ours = model(batch)
    assert torch.equal(theirs.prediction_logits, ours.mlm_logits)
    assert torch.equal(theirs.seq_relationship_logits, ours.pair_logits)


def test_the_folder_stands_alone_in_a_process_without_the_package(export, tmp_path):
    folder, model = export
    batch = probe_batch(make_model().config, TOKENS, shape=(3, 21))
    with torch.no_grad():
        logits = model(batch).mlm_logits
    tensors = {"ids": batch.input_ids, "mask": batch.mask.long(), "types": batch.token_type_ids}
    save_file(tensors, tmp_path / "io.safetensors")
    code = textwrap.dedent(WITHOUT_PACKAGE) + textwrap.dedent(f"""
        import torch
        from safetensors.torch import load_file, save_file
        from transformers import (AutoModel, AutoModelForMaskedLM, AutoTokenizer,
            AutoModelForQuestionAnswering, AutoModelForSequenceClassification, pipeline)

        folder, io = {str(folder)!r}, load_file({str(tmp_path / "io.safetensors")!r})
        inputs = dict(input_ids=io["ids"], attention_mask=io["mask"], token_type_ids=io["types"])
        twin = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True).eval()
        twin.save_pretrained({str(tmp_path / "again")!r})
        again = AutoModelForMaskedLM.from_pretrained(
            {str(tmp_path / "again")!r}, trust_remote_code=True
        )
        with torch.no_grad():
            save_file({{"first": twin(**inputs).logits, "again": again(**inputs).logits}},
                      {str(tmp_path / "out.safetensors")!r})
        body = AutoModel.from_pretrained(folder, trust_remote_code=True)
        assert body(**inputs).pooler_output.shape == (3, 16)
        classifier = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=3, trust_remote_code=True
        )
        classifier(**inputs, labels=torch.tensor([0, 1, 2])).loss.backward()
        reader = AutoModelForQuestionAnswering.from_pretrained(folder, trust_remote_code=True)
        assert reader(**inputs).start_logits.shape == (3, 21)
        fill = pipeline("fill-mask", model=folder, trust_remote_code=True)
        assert len(fill("the old [MASK] sleeps .")) == 5
        assert AutoTokenizer.from_pretrained(folder)("rain").input_ids == [2, 5, 3]
        assert "ponet" not in sys.modules
    """)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "out.safetensors")
    assert torch.equal(found["first"], logits)
    assert torch.equal(found["again"], logits)
