"""`python -m ponet export`: a model for transformers, as an ONNX graph, or with 8-bit weights.

Invariant: what is written has been loaded by the other side and compared with the model; otherwise
there is no output.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.command import CommandParser, counted
from ponet.batch import EncoderBatch
from ponet.bundle import Model, bundle_folder, read_config, read_model
from ponet.config import PoNetConfig, PoolingConfig
from ponet.foreign import TrainedModel
from ponet.heads import SequenceClassifier
from ponet.hub.bits import compare, export_bits, rounded
from ponet.hub.card import model_card, render
from ponet.hub.cost import UTTERANCES, measure, size_mb, text_reader
from ponet.hub.huggingface import (
    SpecialTokens,
    export_huggingface,
    find_special_tokens,
    pretraining_facts,
    probe_batch,
)
from ponet.hub.onnx_export import GRAPH_NAME, OnnxModel, export_onnx, open_session, run_session
from ponet.hub.reading import differences, graph_differences, pretraining_texts
from ponet.hub.revisions import LIST_NAME, export_revisions
from ponet.hub.upload import has_model, push
from ponet.names import foreign_fields
from ponet.quantization import pack
from ponet.tagger import Tagger
from ponet.weight_files import TOKENIZER_NAME

_PIPELINES = {"bundle": "fill-mask", "classifier": "text-classification",
              "tagger": "token-classification"}  # fmt: skip
_NO_TOKENS = SpecialTokens(cls_token_id=0, sep_token_id=0)
_WORDS = ("licence", "language", "notes")
_SOURCES = ("run", "manifest", "results", "results_encoder")


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is exported."""

    model: Model
    """In evaluation mode, on the CPU."""
    config: Mapping[str, Any]
    """Its config.json."""
    tokenizer: Path | None
    """Its tokenizer.json."""

    @property
    def task(self) -> Mapping[str, Any] | None:
        """What a classifier or tagger knows; None: a bundle of pretraining."""
        return self.config.get("task")

    @property
    def texts(self) -> Mapping[str, Any]:
        """What was done with texts in training: of a fit, or of pretraining."""
        return self.task or pretraining_texts(self.model.encoder.config, self.config["metadata"])

    @property
    def kind(self) -> str:
        """What to call it."""
        if self.task is None:
            return "bundle"
        return "tagger" if self.task.get("tags") else "classifier"


def run_export(arguments: Sequence[str]) -> None:
    """`export BUNDLE|CLASSIFIER --format huggingface|onnx|bits8|onnx-bits8 --output DIR`."""
    options = _parser().parse_args(arguments)
    if options.revisions:
        _check_options(options, is_bundle=True)
        _revisions(options)
        return
    folder = bundle_folder(options.bundle)
    config = read_config(folder)
    _check_options(options, is_bundle="task" not in config)
    path = folder / TOKENIZER_NAME if (folder / TOKENIZER_NAME).is_file() else None
    source = Source(model=read_model(folder, config), config=config, tokenizer=path)
    if options.format != "bits8":
        _check_task(source.task or {})
    write = {"huggingface": _huggingface, "bits8": _bits}.get(options.format, _onnx)
    write(source, options)
    print(f"size        {size_mb(options.output):.2f} MB on disk in all")


def _check_task(task: Mapping[str, Any]) -> None:
    """Refuse what no other library has a form of."""
    if task.get("unit") == "sentence":
        raise ValueError(
            "this model labels sentences, of which transformers and ONNX graphs of ours have no "
            "form; export it with --format bits8, for this package"
        )


def _cost_lines(source: Source, answer: Callable[[EncoderBatch], Any]) -> list[str]:
    """Return what an utterance costs, where there is a tokenizer to read it."""
    if source.tokenizer is None:
        return []
    return [measure(text_reader(source.model.encoder.config, source.tokenizer), answer).line]


def _special_tokens(source: Source, options: argparse.Namespace) -> SpecialTokens:
    vocab_size = source.model.encoder.config.vocab_size
    return find_special_tokens(
        source.tokenizer, vocab_size=vocab_size, separator_ids=options.separator_ids
    )


def _words(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the options say of any card."""
    words = {key: getattr(options, key) for key in _WORDS}
    return words | {"name": options.name or options.output.name}


def _sources(options: argparse.Namespace) -> dict[str, Any]:
    """Return the files for a card; a run that is given in place of its bundle is one of them."""
    found = {key: getattr(options, key) for key in _SOURCES}
    if found["run"] is None and (options.bundle / "run_config.yaml").is_file():
        found["run"] = options.bundle
    return found


def _bits(source: Source, options: argparse.Namespace) -> None:
    model, task, path = source.model, source.task or {}, source.tokenizer
    config = model.encoder.config
    batches = [probe_batch(config, _NO_TOKENS, shape=(4, 24))]
    if path is not None:
        read = text_reader(config, path)
        batches = [read(text) for text in UTTERANCES]
    lost = compare(model, rounded(model), batches).line
    size = sum(value.nbytes for value in pack(model.state_dict()).values())
    lines = [f"{size / 1e6:.2f} MB of weights", lost, *_cost_lines(source, model)]
    card = render(
        "bits_card.md.j2", model, task=_PIPELINES[source.kind], values=task, lines=lines,
        library="ponet", **_words(options),
    )  # fmt: skip
    export_bits(model, options.output, config=source.config, tokenizer_path=path, card=card,
                batches=batches)  # fmt: skip
    print(f"{options.output}: the {source.kind} with 8-bit weights")
    print("".join(f"  {line}\n" for line in lines), end="")


def _huggingface(source: Source, options: argparse.Namespace) -> None:
    model, task, path = source.model, source.task, source.tokenizer
    if isinstance(model, Tagger):
        raise ValueError(
            "transformers has no form of a tagger of ours; export it with --format onnx, or "
            "--format bits8 for this package"
        )
    foreign_fields(model.encoder.config)  # refuses what transformers has no form of
    special_tokens, words = _special_tokens(source, options), _words(options)
    lines, notes = _cost_lines(source, model), differences(model.encoder.config, source.texts)
    settings: dict[str, Any] = {"max_len": source.texts["max_len"]}
    if isinstance(model, SequenceClassifier):
        assert task is not None
        settings["facts"] = _labels(model, task)
        notes += _task_differences(task)
        card = render("classifier_card.md.j2", model, task=_PIPELINES[source.kind], values=task,
                      differences=[*notes, *lines], **words)  # fmt: skip
    else:
        words |= _sources(options) | {"lines": lines}
        metadata = source.config["metadata"]
        settings["facts"] = pretraining_facts(model, metadata)
        card = model_card(model, metadata, has_tokenizer=path is not None, **words)
    difference = export_huggingface(
        model,
        options.output,
        special_tokens=special_tokens,
        tokenizer_path=path,
        card=card,
        **settings,
    )
    print(
        f"{options.output}: loads in transformers; outputs within {difference:.1e} of the "
        f"{source.kind}"
    )
    if isinstance(model.encoder.config, PoNetConfig):
        notes.insert(0, "load it after `import ponet.hub`, or with trust_remote_code=True")
    print("".join(f"note: {note}\n" for note in notes), end="")
    print("".join(f"  {line}\n" for line in lines), end="")
    if options.push:
        print(push(options.output, options.push, private=not options.public))


def _revisions(options: argparse.Namespace) -> None:
    """Write, and push if that is asked for, every checkpoint of a run."""
    run = options.bundle
    words = _words(options) | _sources(options)

    def card(trained: TrainedModel, revision: str) -> str:
        step = trained.metadata["steps"]
        named = words | {"name": f"{words['name']}, {revision}", "lines": [], "last_step": step}
        return model_card(trained.converted.model, trained.metadata, has_tokenizer=True, **named)

    rows = export_revisions(run, options.output, card=card)
    print(f"{options.output}: {counted(len(rows), 'revision(s)')}, listed in {LIST_NAME}")
    if not options.push:
        return
    names, private = [row["revision"] for row in rows], not options.public
    for name in names:
        print(push(options.output / name, options.push, private=private, branch=name))
    if has_model(options.push):
        print(f"{options.push}: its main branch keeps the model that it had")
    else:  # from_pretrained without a revision finds the last one
        print(push(options.output / names[-1], options.push, private=private))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "ponet export",
        description="A bundle, or a classifier or tagger of `python -m finetune fit`, as a folder "
        "of transformers, as an ONNX graph, or with weights in 8 bits. What is written has been "
        "loaded by the other side and compared with the model; otherwise there is no output.",
    )
    parser.add_argument(
        "bundle", type=Path, help="folder of a bundle or a fine-tuned model, or of its run"
    )
    parser.add_argument(
        "--format", choices=("huggingface", "onnx", "bits8", "onnx-bits8"), required=True,
        help="huggingface: a folder for transformers; onnx: a graph for onnxruntime; bits8: a "
        "quarter of the size for this package; onnx-bits8: both",
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
    hub.add_argument(
        "--revisions", action="store_true",
        help="of a run: every checkpoint it kept, each in a folder named as a revision (step0, "
        "step1000, ...) with a list of what each has seen; --push makes them branches",
    )  # fmt: skip
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


def _check_options(options: argparse.Namespace, *, is_bundle: bool) -> None:
    """Refuse options that would do nothing."""
    form = options.format
    needs = (
        ("--format huggingface", form == "huggingface", (*_SOURCES, "push", "public", "revisions")),
        ("--format huggingface or bits8", form in ("huggingface", "bits8"), ("name", *_WORDS)),
        ("--format onnx", "onnx" in form, ("head", "segment_input", "time")),
        ("another format than bits8", form != "bits8", ("separator_ids",)),
        ("--push REPO", options.push, ("public",)),
        ("--results TABLE.json", options.results, ("results_encoder",)),
        ("a bundle, and this is a fine-tuned model", is_bundle,
         (*_SOURCES, "separator_ids", "head")),
    )  # fmt: skip
    for what, is_there, names in needs:
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]
        if given and not is_there:
            raise ValueError(f"{', '.join(given)} would do nothing; it needs {what}")
    if options.time is not None and options.time < 1:
        raise ValueError(f"--time {options.time} given; 1 or more is needed")


def _labels(model: SequenceClassifier, task: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration of transformers says of the outputs.

    A regression is trained on scores of mean 0 and deviation 1; the model is changed in place to
    give them on their own scale.
    """
    if names := task["labels"]:
        number = "multi" if task.get("is_multilabel") else "single"
        return {
            "id2label": dict(enumerate(names)),
            "label2id": {name: place for place, name in enumerate(names)},
            "problem_type": f"{number}_label_classification",
        }
    scale = task.get("scale") or {"mean": 0.0, "std": 1.0}
    model.rescale(factor=scale["std"], shift=scale["mean"])
    return {"num_labels": 1, "problem_type": "regression"}


def _task_differences(task: Mapping[str, Any]) -> list[str]:
    """Return what transformers' pipelines do otherwise with the outputs than `finetune predict`."""
    lines = []
    if task.get("is_multilabel"):
        levels = ", ".join(f"{level:.3f}" for level in task["thresholds"])
        lines.append(
            "it gives every label whose probability (sigmoid) is above its threshold, which "
            f"pipelines do not know: {levels}"
        )
    if not task["labels"]:
        lines.append('its score is the logit; pipelines give it with function_to_apply="none"')
    return lines


def _onnx(source: Source, options: argparse.Namespace) -> None:
    model, task = source.model, source.task
    config = model.encoder.config
    if options.segment_input and not isinstance(config, PoolingConfig):
        raise ValueError(f"--segment-input would do nothing: a {config.kind} model has no segments")
    if isinstance(model, SequenceClassifier) and task is not None:
        _labels(model, task)
    is_packed = options.format == "onnx-bits8"
    live = OnnxModel(
        rounded(model) if is_packed else model,
        _special_tokens(source, options),
        head=options.head or "masked-lm",
        segment_input=options.segment_input,
    )
    found = export_onnx(
        live,
        options.output,
        tokenizer_path=source.tokenizer,
        num_timed=options.time or 0,
        facts=_graph_facts(model, source.texts),
        is_packed=is_packed,
    )
    largest = max(one.difference for one in found)
    print(f"{options.output / GRAPH_NAME}: onnxruntime within {largest:.1e} of PyTorch")
    notes = graph_differences(
        config,
        source.texts,
        command="ponet encode" if task is None else "finetune predict",
        segment_input=options.segment_input,
        head=live.head,
    )
    print("".join(f"note: {line}\n" for line in notes), end="")
    for (rows, tokens), difference, times_ms in found:
        times = zip(("onnxruntime", "PyTorch"), times_ms, strict=False)
        timed = "".join(f", {name} {time:.1f} ms" for name, time in times)
        print(f"  {rows} x {tokens} tokens: within {difference:.1e}{timed}")
    session = open_session(options.output / GRAPH_NAME, threads=1)
    for line in _cost_lines(source, lambda batch: run_session(session, live.inputs(batch))):
        print(f"  {line}")


def _graph_facts(model: Model, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the outputs of a graph mean, and the scores that a chain of tags adds to them.

    Args:
        model: What the graph is of.
        known: Its `Source.texts`.
    """
    facts: dict[str, Any] = {key: list(known[key]) for key in ("labels", "tags") if key in known}
    facts |= {key: known[key] for key in ("max_len", "segments", "language") if key in known}
    if known.get("thresholds"):
        facts["thresholds"] = list(known["thresholds"])
    if "decoder" in known:
        facts["decoder"] = known["decoder"]
    if isinstance(model, Tagger) and model.crf is not None:
        scores = model.crf.state_dict().items()
        facts["crf"] = {name: value.tolist() for name, value in scores}
    return facts
