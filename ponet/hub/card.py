"""The model card: what is known about a bundle, with its source, and what is not known.

The words are in card.md.j2; here are the values. Invariant: no number stands here that is not in
the files given; whatever they do not say is said to be unknown.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import ponet
from ponet.config import EncoderConfig, PoNetConfig
from ponet.heads import PretrainingModel
from ponet.hub.configuration_ponet import OLDEST_TRANSFORMERS
from ponet.weight_files import read_json

UNKNOWN = "unknown: no file given at the export says so"
_CURVE_ROWS, _CURVE_COLUMNS, _FILES = 6, 6, 3


class _Paper(NamedTuple):
    title: str
    author: str
    venue: str
    year: int
    arxiv: str


_PAPERS = {
    "ponet": _Paper(
        "PoNet: Pooling Network for Efficient Token Mixing in Long Sequences",
        *("Tan, Chao-Hong and others", "ICLR", 2022, "2110.02442"),
    ),
    "bert": _Paper(
        "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
        *("Devlin, Jacob and others", "NAACL", 2019, "1810.04805"),
    ),
    "fnet": _Paper(
        "FNet: Mixing Tokens with Fourier Transforms",
        *("Lee-Thorp, James and others", "NAACL", 2022, "2105.03824"),
    ),
}
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
    results_encoder: str | None = None
    """Name of this encoder in the table; needed where it has several."""
    notes: Path | None = None
    """Markdown that goes into the card as it is: dates and licences of the data, intended use."""
    licence: str | None = None
    """SPDX identifier of the weights' licence, such as "apache-2.0"."""
    language: str | None = None
    """ISO 639-1 code of the texts' language, such as "en"."""


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
    config, run = model.config, _run_config(sources.run)
    manifest = None if sources.manifest is None else _manifest(sources.manifest)
    return render(
        "card.md.j2",
        config,
        task="fill-mask",
        licence=sources.licence,
        language=sources.language,
        notes=sources.notes,
        name=name,
        title=_TITLES[config.kind],
        num_pair_classes=model.num_pair_classes,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        metadata=_flat(metadata),
        has_tokenizer=has_tokenizer,
        unknown=UNKNOWN,
        manifest=manifest,
        data_rows=[_source_row(source) for source in (manifest or {}).get("sources", [])],
        training_rows=[] if run is None else _training(metadata, run),
        curve=_curve([] if sources.run is None else _metric_rows(sources.run / "metrics.jsonl")),
        results=_results(sources),
        trained_len=metadata.get("max_len"),
        paper=_PAPERS[config.kind],
    )


def render(
    template: str,
    config: EncoderConfig,
    *,
    task: str,
    licence: str | None,
    language: str | None,
    notes: Path | None,
    **values: Any,
) -> str:
    """Return a card.

    Args:
        template: Name of a file beside this one.
        config: Of the encoder.
        task: Name of the pipeline that the card is for.
        licence: SPDX identifier, where it is known.
        language: ISO 639-1 code, where it is known.
        notes: Markdown to include.
        **values: What else the template shows.

    Raises:
        ValueError: If the notes cannot be read.
    """
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        tags=[config.kind],
        license=licence,
        language=language,
    )
    card = ModelCard.from_template(
        data,
        template_str=(resources.files("ponet.hub") / template).read_text("utf-8"),
        config=config,
        trust=", trust_remote_code=True" if isinstance(config, PoNetConfig) else "",
        oldest=OLDEST_TRANSFORMERS,
        version=ponet.__version__,
        notes="" if notes is None else _text(notes).strip(),
        **values,
    )
    return str(card).rstrip() + "\n"


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


def _training(metadata: Mapping[str, Any], run: Mapping[str, Any]) -> list[tuple[str, str]]:
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
    return rows


def _curve(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a few validations of a run, spread over it, as a table."""
    points = [row for row in rows if any(key.startswith("val/") for key in row)]
    names = sorted({key for row in points for key in row if key.startswith("val/")})
    names = ["step", *names[:_CURVE_COLUMNS]]
    last = len(points) - 1
    chosen = sorted({round(last * i / (_CURVE_ROWS - 1)) for i in range(_CURVE_ROWS)})
    table = [[_shown(points[i].get(name)) for name in names] for i in chosen] if points else []
    return {"head": names, "rows": table, "num_points": len(points)}


def _results(sources: CardSources) -> list[tuple[str, ...]] | None:
    if sources.results is None:
        return None
    results = read_json(sources.results).get("results")
    if not isinstance(results, list):
        raise ValueError(f"{sources.results} has no 'results'; give the report's table.json")
    encoders = sorted({str(row.get("encoder")) for row in results})
    name = sources.results_encoder or (encoders[0] if len(encoders) == 1 else "")
    if name not in encoders:
        raise ValueError(
            f"--results-encoder {name!r} given; {sources.results} has {', '.join(encoders)}"
        )
    return [_result_row(row) for row in results if str(row.get("encoder")) == name]


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
