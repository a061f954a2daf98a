"""The model card: what is known about a model, with its source, and what is not known.

The words are in the templates beside this file; here are the values. Invariant: no number
stands here that is not in the files given; whatever they do not say is said to be unknown.
"""

import statistics
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import ponet
from data_prep.command import read_yaml
from data_prep.files import json_records
from ponet.bundle import lacks_masked_head
from ponet.config import PoNetConfig
from ponet.heads import PretrainingModel
from ponet.hub.configuration_ponet import OLDEST_TRANSFORMERS
from ponet.hub.reading import differences, pretraining_texts
from ponet.weight_files import read_json

UNKNOWN = "unknown: no file given at the export says so"
_CURVE_ROWS, _CURVE_COLUMNS, _FILES = 6, 6, 3


def model_card(
    model: PretrainingModel,
    metadata: Mapping[str, Any],
    *,
    name: str,
    has_tokenizer: bool,
    run: Path | None = None,
    manifest: Path | None = None,
    results: Path | None = None,
    results_encoder: str | None = None,
    **words: Any,
) -> str:
    """Return the text of README.md; the files that it is made of may each be missing.

    Args:
        model: The bundle's model.
        metadata: What the bundle says about itself.
        name: Title of the card.
        has_tokenizer: Whether a tokenizer goes with it.
        run: Folder of the pretraining run, with run_config.yaml and metrics.jsonl.
        manifest: manifest.json of the shards, or the folder that holds it.
        results: table.json of `python -m finetune report`.
        results_encoder: Name of this encoder in the table; needed where it has several.
        **words: `notes`, `licence`, `language` and `lines` (of costs), as for `render`, and
            `last_step`, where the curve ends, for a checkpoint of a run that went on.
    """
    if manifest is not None:
        manifest = manifest / "manifest.json" if manifest.is_dir() else manifest
    shards = None if manifest is None else read_json(manifest)
    texts, is_filled = pretraining_texts(model.config, metadata), not lacks_masked_head(metadata)
    return render(
        "card.md.j2",
        model,
        task="fill-mask" if is_filled else "feature-extraction",
        is_filled=is_filled,
        name=name,
        num_pair_classes=model.num_pair_classes,
        metadata=_flat(metadata),
        has_tokenizer=has_tokenizer,
        unknown=UNKNOWN,
        manifest=shards,
        data_rows=[_source_row(source) for source in (shards or {}).get("sources", [])],
        settings=None if run is None else _settings(run),
        steps=metadata.get("steps"),
        curve=_curve([] if run is None else _metric_rows(run), last=words.pop("last_step", None)),
        results=None if results is None else _results(results, results_encoder),
        shown=_shown,
        spread=_spread,
        trained_len=texts["max_len"],
        differences=differences(model.config, texts),
        **words,
    )


def render(
    template: str,
    model: Any,
    *,
    task: str,
    licence: str | None = None,
    language: str | None = None,
    notes: Path | None = None,
    library: str = "transformers",
    **values: Any,
) -> str:
    """Return a card.

    Args:
        template: Name of a file beside this one.
        model: Any model with an encoder.
        task: Name of the pipeline that the card is for.
        licence: SPDX identifier of the weights' licence, such as "apache-2.0".
        language: ISO 639-1 code of the texts' language, such as "en".
        notes: Markdown that goes into the card as it is: dates and licences of the data, use.
        library: What loads the weights.
        **values: What else the template shows.
    """
    from huggingface_hub import ModelCard, ModelCardData

    config = model.encoder.config
    data = ModelCardData(
        library_name=library,
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
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
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
        rows = [file if isinstance(file, Mapping) else {"name": file} for file in files]
        size = sum(row.get("size", 0) for row in rows)
        names = [Path(str(row.get("name", row.get("path", "")))).name for row in rows]
        known = [name for name in names if name][:_FILES]
        more = " …" if len(files) > len(known) else ""
        shown.append(f"{len(files)} files, {size:,} bytes ({', '.join(known)}{more})")
    return str(name), "; ".join(shown) or "unknown", str(date), str(licence)


def _settings(run: Path) -> dict[str, Any]:
    path = run / "run_config.yaml"
    settings = read_yaml(path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds no settings; give --run the folder of a pretraining run")
    return settings


def _metric_rows(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return json_records(_text(path), path)


def validations(run: Path) -> dict[int, dict[str, Any]]:
    """Return the validations of a run by their steps."""
    return {row["step"]: row for row in _metric_rows(run) if "val/mlm_loss" in row}


def _curve(rows: Sequence[Mapping[str, Any]], *, last: int | None) -> dict[str, Any]:
    """Return a few validations of a run, spread over it or up to a last step, as a table."""
    points = [row for row in rows if any(key.startswith("val/") for key in row)]
    points = [row for row in points if last is None or row["step"] <= last]
    names = sorted({key for row in points for key in row if key.startswith("val/")})
    names = ["step", *names[:_CURVE_COLUMNS]]
    chosen = sorted({round((len(points) - 1) * i / (_CURVE_ROWS - 1)) for i in range(_CURVE_ROWS)})
    table = [[_shown(points[i].get(name)) for name in names] for i in chosen] if points else []
    return {"head": names, "rows": table, "num_points": len(points)}


def _results(path: Path, encoder: str | None) -> list[dict[str, Any]]:
    results = read_json(path).get("results")
    if not isinstance(results, list):
        raise ValueError(f"{path} has no 'results'; give the report's table.json")
    encoders = sorted({str(row.get("encoder")) for row in results})
    name = encoder or (encoders[0] if len(encoders) == 1 else "")
    if name not in encoders:
        raise ValueError(f"--results-encoder {name!r} given; {path} has {', '.join(encoders)}")
    return [row for row in results if str(row.get("encoder")) == name]


def _spread(scores: Sequence[Any]) -> str:
    numbers = [score for score in scores if isinstance(score, (int, float))]
    return f"{statistics.stdev(numbers):.4f}" if len(numbers) > 1 else "unknown"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); check the path") from error


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        is_group = isinstance(value, Mapping) and value
        rows += _flat(value, f"{prefix}{key}.") if is_group else [(prefix + key, _shown(value))]
    return rows


def _shown(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    return str(value)
