"""`python -m ponet export`: a bundle or a classifier for transformers, a bundle as an ONNX graph.

Invariant: what is written has been loaded by the other side and compared with the model; otherwise
there is no output.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ponet.bundle import bundle_folder, read_config, read_model
from ponet.config import EncoderConfig, PoNetConfig
from ponet.heads import PretrainingModel, SequenceClassifier
from ponet.hub.card import model_card, render
from ponet.hub.huggingface import SpecialTokens, export_huggingface, find_special_tokens
from ponet.hub.onnx_export import GRAPH_NAME, export_onnx
from ponet.tagger import Tagger
from ponet.weight_files import TOKENIZER_NAME

_WORDS = ("licence", "language", "notes")
_SOURCES = ("run", "manifest", "results", "results_encoder")


def run_export(arguments: Sequence[str]) -> None:
    """`export BUNDLE|CLASSIFIER --format huggingface|onnx --output DIR [--push REPO]`."""
    options = _parser().parse_args(arguments)
    folder = bundle_folder(options.bundle)
    config = read_config(folder)
    task = config.get("task")
    _check_options(options, is_classifier=task is not None)
    model = read_model(folder, config)
    if isinstance(model, Tagger):
        raise ValueError(f"{folder} tags words, for which this export has no form; use predict")
    path = folder / TOKENIZER_NAME if (folder / TOKENIZER_NAME).is_file() else None
    special_tokens = find_special_tokens(
        path, vocab_size=model.encoder.config.vocab_size, separator_ids=options.separator_ids
    )
    words = {key: getattr(options, key) for key in _WORDS}
    words["name"] = options.name or options.output.name
    settings: dict[str, Any] = {}
    notes: list[str] = []
    if isinstance(model, SequenceClassifier):
        assert task is not None
        settings = {"max_len": task["max_len"], "labels": _labels(model, task)}
        notes = _differences(model.encoder.config, task)
        card = render("classifier_card.md.j2", model, task="text-classification", values=task,
                      differences=notes, **words)  # fmt: skip
    elif options.format == "onnx":
        _export_onnx(model, path, special_tokens, options)
        return
    else:
        words |= {key: getattr(options, key) for key in _SOURCES}
        card = model_card(model, config["metadata"], has_tokenizer=path is not None, **words)
    difference = export_huggingface(
        model,
        options.output,
        special_tokens=special_tokens,
        tokenizer_path=path,
        card=card,
        **settings,
    )
    what = "bundle" if task is None else "classifier"
    print(f"{options.output}: loads in transformers; outputs within {difference:.1e} of the {what}")
    if isinstance(model.encoder.config, PoNetConfig):
        notes.insert(0, "load it after `import ponet.hub`, or with trust_remote_code=True")
    print("".join(f"note: {note}\n" for note in notes), end="")
    if options.push:
        print(push(options.output, options.push, private=not options.public))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "ponet export",
        description="A bundle, or a classifier of `python -m finetune fit`, as a folder of "
        "transformers; a bundle also as an ONNX graph. What is written has been loaded by the "
        "other side and compared with the model; otherwise there is no output.",
    )
    parser.add_argument(
        "bundle", type=Path, help="folder of a bundle or a fine-tuned classifier, or of its run"
    )
    parser.add_argument(
        "--format", choices=("huggingface", "onnx"), required=True,
        help="huggingface: a folder for transformers; onnx: a graph for onnxruntime",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, help="folder to write; new or empty")
    parser.add_argument(
        "--separator-ids", type=int, nargs=2, metavar=("CLS", "SEP"),
        help="ids of [CLS] and [SEP], for a bundle without tokenizer.json",
    )  # fmt: skip
    card = parser.add_argument_group("model card (huggingface)")
    card.add_argument("--name", help="title (default: the folder's name)")
    card.add_argument("--run", type=Path, help="pretraining run: recipe, seed and curve")
    card.add_argument("--manifest", type=Path, help="shard folder or its manifest.json: the data")
    card.add_argument("--results", type=Path, help="table.json of `python -m finetune report`")
    card.add_argument("--results-encoder", help="this encoder's name in that table")
    card.add_argument("--notes", type=Path, help="Markdown to include: dates, licences, use")
    card.add_argument("--licence", help="SPDX identifier of the weights' licence")
    card.add_argument("--language", help="ISO 639-1 code of the texts' language, such as en")
    hub = parser.add_argument_group("Hugging Face Hub (huggingface)")
    hub.add_argument("--push", metavar="REPO", help="upload to owner/name; needs `hf auth login`")
    hub.add_argument(
        "--public", action="store_true", help="make a new repository public (default: private)"
    )
    onnx = parser.add_argument_group("graph (onnx)")
    onnx.add_argument(
        "--head", choices=("masked-lm", "encoder"),
        help="masked-lm (default): hidden states and logits; encoder: hidden states and pooled "
        "output",
    )  # fmt: skip
    onnx.add_argument(
        "--segment-input", action="store_true",
        help="make segment_ids an input; without it each text between separators is a segment",
    )  # fmt: skip
    onnx.add_argument(
        "--time", type=int, metavar="N", help="time N runs of onnxruntime and of PyTorch"
    )
    return parser


def _check_options(options: argparse.Namespace, *, is_classifier: bool) -> None:
    """Refuse options that would do nothing."""
    needs = (
        ("--format huggingface", options.format == "huggingface",
         ("name", *_SOURCES, *_WORDS, "push", "public")),
        ("--format onnx", options.format == "onnx", ("head", "segment_input", "time")),
        ("--push REPO", options.push, ("public",)),
        ("--results TABLE.json", options.results, ("results_encoder",)),
        ("a bundle, and this is a fine-tuned classifier", not is_classifier,
         (*_SOURCES, "separator_ids")),
    )  # fmt: skip
    for what, is_there, names in needs:
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]
        if given and not is_there:
            raise ValueError(f"{', '.join(given)} would do nothing; it needs {what}")
    if is_classifier and options.format != "huggingface":
        raise ValueError(
            "a fine-tuned classifier is exported to huggingface alone; give --format huggingface"
        )
    if options.time is not None and options.time < 1:
        raise ValueError(f"--time {options.time} given; 1 or more is needed")


def _labels(model: SequenceClassifier, task: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration of transformers says of the outputs.

    A regression is trained on scores of mean 0 and deviation 1; its last layer is changed in place
    to give them on their own scale.
    """
    if names := task["labels"]:
        return {
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
            "problem_type": "single_label_classification",
        }
    scale = task.get("scale") or {"mean": 0.0, "std": 1.0}
    with torch.no_grad():
        model.classifier.weight *= scale["std"]
        model.classifier.bias.mul_(scale["std"]).add_(scale["mean"])
    return {"num_labels": 1, "problem_type": "regression"}


def _differences(config: EncoderConfig, task: Mapping[str, Any]) -> list[str]:
    """Return where transformers' pipelines do something else than `python -m finetune predict`."""
    lines = [f"texts of more than {task['max_len']} tokens are cut only with truncation=True"]
    if isinstance(config, PoNetConfig) and task["segments"] != "separators":
        lines.append(
            f"it was trained with {task['segments']} as pooling segments; give their numbers as "
            "segment_ids, because without them each text is one segment and outputs differ"
        )
    if config.sees_padding:
        lines.append("padding changes its outputs; give texts of one length, or one by one")
    if not task["labels"]:
        lines.append('its score is the logit; pipelines give it with function_to_apply="none"')
    return lines


def _export_onnx(
    model: PretrainingModel,
    tokenizer_path: Path | None,
    special_tokens: SpecialTokens,
    options: argparse.Namespace,
) -> None:
    if options.segment_input and not isinstance(model.config, PoNetConfig):
        raise ValueError(
            f"--segment-input would do nothing: a {model.config.kind} model has no segments"
        )
    found = export_onnx(
        model,
        options.output,
        special_tokens=special_tokens,
        tokenizer_path=tokenizer_path,
        head=options.head or "masked-lm",
        segment_input=options.segment_input,
        num_timed=options.time or 0,
    )
    largest = max(one.difference for one in found)
    print(f"{options.output / GRAPH_NAME}: onnxruntime within {largest:.1e} of PyTorch")
    for (rows, tokens), difference, times_ms in found:
        times = zip(("onnxruntime", "PyTorch"), times_ms, strict=False)
        timed = "".join(f", {name} {time:.1f} ms" for name, time in times)
        print(f"  {rows} x {tokens} tokens: within {difference:.1e}{timed}")


def push(folder: Path, repo: str, *, private: bool) -> str:
    """Upload a folder to the Hugging Face Hub and return the commit's address.

    Args:
        folder: What to upload.
        repo: owner/name; made if it is not there.
        private: Whether a repository that is made is private; an existing one stays as it is.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    commit = api.upload_folder(repo_id=repo, folder_path=str(folder))
    return str(commit)
