"""The model card: what is known about a bundle, with its source, and what is not known.

Invariant: no number stands here that is not in the files given; whatever they do not say is said
to be unknown.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ponet
from ponet.config import EncoderConfig, PoNetConfig
from ponet.heads import PretrainingModel
from ponet.hub.configuration_ponet import OLDEST_TRANSFORMERS
from ponet.weight_files import read_json

UNKNOWN = "unknown: no file given at the export says so"
_CURVE_ROWS, _CURVE_COLUMNS, _FILES = 6, 6, 3
_PAPERS = {
    "ponet": ("PoNet: Pooling Network for Efficient Token Mixing in Long Sequences",
              "Tan, Chao-Hong and others", "ICLR", 2022, "2110.02442"),
    "bert": ("BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
             "Devlin, Jacob and others", "NAACL", 2019, "1810.04805"),
    "fnet": ("FNet: Mixing Tokens with Fourier Transforms",
             "Lee-Thorp, James and others", "NAACL", 2022, "2105.03824"),
}  # fmt: skip
_TITLES = {"ponet": "PoNet", "bert": "BERT", "fnet": "FNet"}


@dataclass(frozen=True, kw_only=True)
class CardSources:
    """Files that a card is made of; each may be missing."""

    run: Path | None = None
    """Folder of the pretraining run, with run_config.yaml and metrics.jsonl."""
    manifest: Path | None = None
    """manifest.json of the shards, or the folder that holds it."""
    results: Path | None = None
    """table.json of `python -m finetune report`."""
    results_encoder: str = ""
    """Name of this encoder in the table; needed where it has several."""
    notes: Path | None = None
    """Markdown that goes into the card as it is: dates and licences of the data, intended use."""
    licence: str = ""
    """SPDX identifier of the weights' licence, such as "apache-2.0"; empty = unknown."""
    language: str = ""
    """ISO 639-1 code of the texts' language, such as "en"; empty = unknown."""


def model_card(
    model: PretrainingModel,
    metadata: Mapping[str, Any],
    sources: CardSources,
    *,
    name: str,
    has_tokenizer: bool,
) -> str:
    """Return the text of README.md.

    Args:
        model: The bundle's model.
        metadata: What the bundle says about itself.
        sources: Further files.
        name: Title of the card.
        has_tokenizer: Whether a tokenizer goes with it.

    Raises:
        ValueError: If a file is missing or is not what it should be.
    """
    run = _run_config(sources.run)
    rows = [] if sources.run is None else _metric_rows(sources.run / "metrics.jsonl")
    manifest = None if sources.manifest is None else _manifest(sources.manifest)
    parts = [
        _front_matter(model.config, sources),
        f"# {name}\n\n{_what(model, metadata)}",
        "## Use\n\n" + _usage(model.config, has_tokenizer),
        "## Data\n\n" + _data(manifest),
        "## Training\n\n" + _training(metadata, run),
        "## Curve\n\n" + _curve(rows),
        "## Results\n\n" + _results(sources),
        "## Limits\n\n" + _limits(model.config, metadata.get("max_len")),
        "## Citation\n\n" + _citation(model.config),
    ]
    if sources.notes is not None:
        parts.insert(3, "## Notes of the publisher\n\n" + _text(sources.notes).strip())
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _front_matter(config: EncoderConfig, sources: CardSources) -> str:
    lines = ["library_name: transformers", "pipeline_tag: fill-mask", f"tags: [{config.kind}]"]
    if sources.licence:
        lines.append(f"license: {json.dumps(sources.licence)}")
    if sources.language:
        lines.append(f"language: {json.dumps(sources.language)}")
    return "\n".join(["---", *lines, "---"])


def _what(model: PretrainingModel, metadata: Mapping[str, Any]) -> str:
    config = model.config
    count = sum(parameter.numel() for parameter in model.parameters())
    pairs = f"a head of {model.num_pair_classes} classes for text pairs"
    heads = "masked words" + (f" and {pairs}" if model.num_pair_classes else "")
    lines = [
        f"{_TITLES[config.kind]} encoder with heads for {heads}; {count:,} parameters, "
        f"{config.num_layers} layers of width {config.hidden_size}, {config.vocab_size:,} word "
        f"pieces, up to {config.max_positions} tokens. Exported by ponet {ponet.__version__}.",
    ]
    if metadata:
        lines += ["", _table(("the bundle says", ""), _flat(metadata))]
    return "\n".join(lines)


def _usage(config: EncoderConfig, has_tokenizer: bool) -> str:
    trust = ", trust_remote_code=True" if isinstance(config, PoNetConfig) else ""
    lines = ["```python"]
    if has_tokenizer:
        lines += [
            "from transformers import pipeline",
            "",
            f'fill = pipeline("fill-mask", model="PATH_OR_ID"{trust})',
            'fill("The capital of France is [MASK].")',
        ]
    else:
        lines += [
            "from transformers import AutoModelForMaskedLM",
            "",
            f'model = AutoModelForMaskedLM.from_pretrained("PATH_OR_ID"{trust})',
        ]
    lines.append("```")
    if trust:
        lines += [
            "",
            "`trust_remote_code=True` (for the tokenizer too, or it asks) runs the Python files of "
            f"this folder, which need torch and transformers {OLDEST_TRANSFORMERS} or newer, and "
            "nothing else. With the ponet package installed, `import ponet.hub` does the "
            "same without running them. `segment_ids` (the pooling unit of each token, from 0 in "
            "every row) may be given; without them each text between separators is one segment, "
            "where training may have used sentences.",
        ]
    if not has_tokenizer:
        lines += ["", "No tokenizer came with the bundle."]
    return "\n".join(lines)


def _data(manifest: Mapping[str, Any] | None) -> str:
    if manifest is None:
        return f"Texts, their dates and their licences are {UNKNOWN}."
    rows = [_source_row(source) for source in manifest.get("sources", [])]
    lines = [_table(("source", "what", "date", "licence"), rows), ""]
    for split, counts in manifest.get("splits", {}).items():
        shown = ", ".join(f"{value:,} {name}" for name, value in counts.items())
        lines.append(f"- {split}: {shown}")
    lines.append(f"- digest of the token shards: {manifest.get('digest', UNKNOWN)}")
    return "\n".join(lines)


def _source_row(source: Mapping[str, Any]) -> tuple[str, ...]:
    values = dict(source)
    date = values.pop("date", "unknown")
    licence = values.pop("licence", values.pop("license", "unknown"))
    files = values.pop("files", None)
    name = values.pop("kind", "unknown")
    shown = [f"{key} {value}" for key, value in values.items() if value not in (None, "", [], {})]
    if isinstance(files, Sequence):
        size = sum(file.get("size", 0) for file in files if isinstance(file, Mapping))
        names = [str(file.get("name", file.get("path", ""))) if isinstance(file, Mapping)
                 else str(file) for file in files]  # fmt: skip
        known = [Path(file).name for file in names if file][:_FILES]
        more = " …" if len(files) > len(known) else ""
        shown.append(f"{len(files)} files, {size:,} bytes ({', '.join(known)}{more})")
    return str(name), "; ".join(shown) or "unknown", str(date), str(licence)


def _training(metadata: Mapping[str, Any], run: Mapping[str, Any] | None) -> str:
    if run is None:
        return f"Recipe and seed are {UNKNOWN}; the bundle's own record stands above."
    wanted = {
        "seed": ("seed_everything",),
        "objective": ("model", "objective"),
        "optimiser": ("model", "optimizer"),
        "masking": ("data", "masking"),
        "segments": ("data", "segments"),
        "longest sequence (tokens)": ("data", "max_len"),
        "global batch size (sequences)": ("data", "global_batch_size"),
        "planned steps": ("trainer", "max_steps"),
        "planned epochs": ("trainer", "max_epochs"),
        "precision": ("trainer", "precision"),
    }
    rows = [(name, _shown(_at(run, path))) for name, path in wanted.items()]
    rows.append(("steps trained", _shown(metadata.get("steps"))))
    return _table(("setting", "value"), rows)


def _curve(rows: Sequence[Mapping[str, Any]]) -> str:
    points = [row for row in rows if any(key.startswith("val/") for key in row)]
    if not points:
        return f"Validation values are {UNKNOWN}."
    names = sorted({key for row in points for key in row if key.startswith("val/")})
    names = names[:_CURVE_COLUMNS]
    last = len(points) - 1
    chosen = sorted({round(last * i / (_CURVE_ROWS - 1)) for i in range(_CURVE_ROWS)})
    table = [
        (_shown(points[i].get("step")), *(_shown(points[i].get(name)) for name in names))
        for i in chosen
    ]
    note = f"{len(chosen)} of {len(points)} validations of one run with one seed, losses in nats."
    return _table(("step", *names), table) + "\n\n" + note


def _results(sources: CardSources) -> str:
    if sources.results is None:
        return f"Scores after fine-tuning are {UNKNOWN}."
    results = read_json(sources.results).get("results")
    if not isinstance(results, list):
        raise ValueError(f"{sources.results} has no 'results'; give the report's table.json")
    encoders = sorted({str(row.get("encoder")) for row in results})
    name = sources.results_encoder or (encoders[0] if len(encoders) == 1 else "")
    if name not in encoders:
        raise ValueError(
            f"--results-encoder {name!r} given; {sources.results} has {', '.join(encoders)}"
        )
    rows = [_result_row(row) for row in results if str(row.get("encoder")) == name]
    head = ("task", "split", "metric", "n", "mean", "95 % interval", "sd", "lowest to highest")
    note = "Fractions. n counts seeds and folds; diverged ones are among them."
    return _table(head, rows) + f"\n\n{note}"


def _result_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    scores = [score for score in row.get("scores", []) if isinstance(score, (int, float))]
    spread = f"{statistics.stdev(scores):.4f}" if len(scores) > 1 else "unknown"
    return (
        str(row.get("title", row.get("task"))),
        str(row.get("split")),
        ", ".join(row.get("metrics", [])),
        str(row.get("n")),
        _shown(row.get("mean")),
        f"{_shown(row.get('low'))} to {_shown(row.get('high'))}",
        spread,
        f"{_shown(row.get('minimum'))} to {_shown(row.get('maximum'))}",
    )


def _limits(config: EncoderConfig, trained_len: object) -> str:
    longest = f"- Inputs end at {config.max_positions} tokens."
    if isinstance(trained_len, int) and trained_len < config.max_positions:
        longest += f" Pretraining saw {trained_len}: positions beyond that were not trained."
    lines = [
        longest,
        "- It reproduces what its texts say, wrong and harmful statements included; which ones, "
        "and for whom it works less well, was not measured for this card.",
        "- It gives words and vectors, no facts; scores after fine-tuning vary with the seed.",
    ]
    if config.kind == "fnet":
        lines.append("- Padding changes the results: a Fourier transform has no mask.")
    if config.kind == "fnet" and not getattr(config, "embedding_projection", True):
        lines.append(
            "- transformers' FNet has a linear layer after the embeddings that this model has "
            "not; here it is the identity, and fine-tuning there would train it."
        )
    return "\n".join(lines)


def _citation(config: EncoderConfig) -> str:
    title, author, venue, year, arxiv = _PAPERS[config.kind]
    return (
        f"The architecture:\n\n```bibtex\n@inproceedings{{{config.kind}{year},\n"
        f"  title = {{{title}}},\n  author = {{{author}}},\n  booktitle = {{{venue}}},\n"
        f"  year = {{{year}}},\n  note = {{arXiv {arxiv}}},\n}}\n```"
    )


def _run_config(run: Path | None) -> dict[str, Any] | None:
    if run is None:
        return None
    import yaml

    path = run / "run_config.yaml"
    try:
        values = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML ({error}); give --run the folder of a run") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings; give --run the folder of a pretraining run")
    return values


def _metric_rows(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of metrics.jsonl; a broken last one comes from a killed run."""
    rows = []
    lines = _text(path).splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not a JSON object ({error})") from error
    return rows


def _manifest(path: Path) -> dict[str, Any]:
    return read_json(path / "manifest.json" if path.is_dir() else path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); check the path") from error


def _at(values: Mapping[str, Any], path: Sequence[str]) -> Any:
    found: Any = values
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _shown(value)))
    return rows


def _shown(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    return str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )
