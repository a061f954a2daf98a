"""`python -m ponet export`: a bundle as a folder of transformers, or as an ONNX graph.

Invariant: what is written has been loaded by the other side and compared with the bundle's model;
otherwise there is no output.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import ponet
from ponet.bundle import Bundle
from ponet.config import PoNetConfig
from ponet.hub.card import CardSources, model_card
from ponet.hub.classifier import classifier_folder, export_classifier, read_classifier
from ponet.hub.huggingface import export_huggingface, put_in_place
from ponet.hub.onnx_export import OnnxOptions, compare_onnx, write_onnx
from ponet.hub.special_tokens import SpecialTokens, find_special_tokens, write_tokenizer

ONNX_NAME = "model.onnx"


def run_export(arguments: Sequence[str]) -> None:
    """`export BUNDLE|CLASSIFIER --format huggingface|onnx --output DIR [--push REPO]`.

    Raises:
        ValueError: If an option does not fit, the target is in use, or what was written is not the
            bundle's model.
    """
    options = _parser().parse_args(arguments)
    _check_options(options)
    if (folder := classifier_folder(options.bundle)) is not None:
        export_classifier(read_classifier(folder), options)
        if options.push:
            print(push(options.output, options.push, private=not options.public))
        return
    bundle = ponet.load_bundle(options.bundle)
    special_tokens = find_special_tokens(
        bundle.tokenizer_path,
        vocab_size=bundle.model.config.vocab_size,
        separator_ids=options.separator_ids,
    )
    if options.format == "onnx":
        _export_onnx(bundle, special_tokens, options)
        return
    card = model_card(
        bundle.model,
        bundle.metadata,
        _card_sources(options),
        name=options.name or options.output.name,
        has_tokenizer=bundle.tokenizer_path is not None,
    )
    difference = export_huggingface(
        bundle.model,
        options.output,
        special_tokens=special_tokens,
        tokenizer_path=bundle.tokenizer_path,
        card=card,
    )
    print(f"{options.output}: loads in transformers; outputs within {difference:.1e} of the bundle")
    if isinstance(bundle.model.config, PoNetConfig):
        print("load it after `import ponet.hub`, or anywhere with trust_remote_code=True")
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


_ONLY = {
    "huggingface": ("name", "run", "manifest", "results", "results_encoder", "notes", "licence",
                    "language", "push", "public"),
    "onnx": ("head", "segment_input", "time"),
}  # fmt: skip


def _check_options(options: argparse.Namespace) -> None:
    for form, names in _ONLY.items():
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]
        if given and options.format != form:
            raise ValueError(f"{', '.join(given)} would do nothing; it needs --format {form}")
    if options.public and not options.push:
        raise ValueError("--public would do nothing without --push REPO")
    if options.results_encoder and not options.results:
        raise ValueError("--results-encoder would do nothing without --results TABLE.json")
    if options.time is not None and options.time < 1:
        raise ValueError(f"--time {options.time} given; 1 or more is needed")


def _card_sources(options: argparse.Namespace) -> CardSources:
    return CardSources(
        **{field.name: getattr(options, field.name) for field in fields(CardSources)}
    )


def _export_onnx(
    bundle: Bundle, special_tokens: SpecialTokens, options: argparse.Namespace
) -> None:
    if options.segment_input and not isinstance(bundle.model.config, PoNetConfig):
        raise ValueError(
            f"--segment-input would do nothing: a {bundle.model.config.kind} model has no segments"
        )
    onnx_options = OnnxOptions(
        head=options.head or "masked-lm", segment_input=options.segment_input
    )
    rows: list[str] = []

    def write(folder: Path) -> float:
        path = folder / ONNX_NAME
        write_onnx(bundle.model, path, special_tokens=special_tokens, options=onnx_options)
        if bundle.tokenizer_path is not None:
            names = ["input_ids", "token_type_ids", "attention_mask"]
            max_len = bundle.model.config.max_positions
            write_tokenizer(bundle.tokenizer_path, folder, max_len=max_len, input_names=names)
        ids = {**asdict(special_tokens), "max_positions": bundle.model.config.max_positions}
        text = json.dumps({"kind": bundle.model.config.kind, **ids}, indent=2) + "\n"
        (folder / "graph.json").write_text(text, encoding="utf-8")
        found = compare_onnx(
            bundle.model, path, special_tokens=special_tokens, options=onnx_options,
            num_timed=options.time or 0,
        )  # fmt: skip
        for one in found:
            times = f", onnxruntime {one.onnx_ms:.1f} ms, PyTorch {one.torch_ms:.1f} ms"
            rows.append(
                f"  {one.shape[0]} x {one.shape[1]} tokens: within {one.difference:.1e}"
                + (times if options.time else "")
            )
        return max(one.difference for one in found)

    difference = put_in_place(options.output, write)
    print(f"{options.output / ONNX_NAME}: onnxruntime within {difference:.1e} of PyTorch")
    print("\n".join(rows))


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
