"""Every checkpoint that a run kept as a folder of transformers, named as a revision of the Hub.

Invariant: each folder is compared with its checkpoint as any export is; all of them appear, with
their list, or none.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.files import write_json
from ponet.foreign import TrainedModel, trained_model
from ponet.hub.card import validations
from ponet.hub.huggingface import export_huggingface, find_special_tokens, pretraining_facts
from ponet.inference import trained_positions
from ponet.weight_files import STATE_NAME, TOKENIZER_NAME, new_folder, read_checkpoint

LIST_NAME = "revisions.json"
_NAME = re.compile(r"step-(\d+)\.ckpt")
_COLUMNS = ("revision", "step", "samples_seen", "tokens_seen", "mlm_loss", "mlm_accuracy")


def export_revisions(
    run: Path, output: Path, *, card: Callable[[TrainedModel, str], str]
) -> list[dict[str, Any]]:
    """Write the checkpoints of a run as `step0`, `step1000`, ..., with a list of them.

    Args:
        run: Folder of a pretraining run.
        output: Folder to write; new or empty.
        card: Returns the model card of a checkpoint; its second argument is the revision's name.

    Returns:
        What revisions.json and README.md say of every revision: `samples_seen`, and `tokens_seen`,
        which is estimated from the mean length of an example.

    Raises:
        ValueError: The run has no checkpoints, one is damaged or sharded, or the output is in use.
    """
    rows, saved = [], saved_steps(run)
    validated = validations(run)
    with new_folder(output, replaces=False) as staging:
        for step, path in saved:
            content, _ = read_checkpoint(path)
            trained, name = trained_model(content, where=path), f"step{step}"
            tokenizer = _tokenizer(run, trained)
            model = trained.converted.model
            difference = export_huggingface(
                model,
                staging / name,
                special_tokens=find_special_tokens(tokenizer, vocab_size=model.config.vocab_size),
                tokenizer_path=tokenizer,
                card=card(trained, name),
                max_len=trained_positions(model.config, trained.metadata),
                facts=pretraining_facts(model, trained.metadata),
            )
            seen = {key: trained.metadata[key] for key in ("samples_seen", "data_digest")}
            tokens = _tokens_seen(seen["samples_seen"], content.get("PretrainDataModule", {}))
            scores = {key: validated.get(step, {}).get(f"val/{key}") for key in _COLUMNS[-2:]}
            rows.append({"revision": name, "step": step, **seen, "tokens_seen": tokens, **scores})
            print(f"{output / name}: loads in transformers; outputs within {difference:.1e}")
        write_json(staging / LIST_NAME, {"run": run.name, "revisions": rows})
        (staging / "README.md").write_text(_page(run.name, rows), encoding="utf-8")
    return rows


def saved_steps(run: Path) -> list[tuple[int, Path]]:
    """Return the steps and checkpoints of a run, the first step first.

    Raises:
        ValueError: There are none, or one has to be gathered first.
    """
    paths = list((run / "checkpoints").glob("step-*.ckpt"))
    named = [(_NAME.fullmatch(path.name), path) for path in paths]
    found = sorted((int(match[1]), path) for match, path in named if match)
    if not found:
        raise ValueError(f"{run} has no checkpoints of steps; give the folder of a pretraining run")
    for _, path in found:
        if path.is_dir() and not (path / STATE_NAME).is_file():
            raise ValueError(
                f"{path} is a sharded checkpoint; gather it first: python -m pretrain export "
                f"{path} --checkpoint FILE.ckpt"
            )
    return found


def _tokenizer(run: Path, trained: TrainedModel) -> Path:
    folders = [folder for folder in (trained.shards, run / "bundle") if folder]
    path = next((f / TOKENIZER_NAME for f in folders if (f / TOKENIZER_NAME).is_file()), None)
    if path is None:
        where = " or ".join(map(str, folders))
        raise ValueError(f"no {TOKENIZER_NAME} in {where}; put that of the run's shards into one")
    trained.check_tokenizer(path, advice=f"put that of the run's shards into {path.parent}")
    return path


def _tokens_seen(samples: int | None, data: Mapping[str, Any]) -> int | None:
    counts = data.get("plan_counts")
    if samples is None or not counts:
        return None
    return int(samples * counts["tokens_total"] * counts["coverage"] / counts["examples"])


def _page(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the list as Markdown, with the commands that push every folder as a branch."""
    shown = [[_cell(row[key]) for key in _COLUMNS] for row in rows]
    table = [list(_COLUMNS), ["---"] * len(_COLUMNS), *shown]
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    pushes = [f"hf upload OWNER/NAME {row['revision']} . --revision {row['revision']}"
              for row in rows]  # fmt: skip
    pushes.append(f"hf upload OWNER/NAME {rows[-1]['revision']} .")
    first = rows[0]["revision"]
    return "\n".join(
        [
            f"# Checkpoints of {name}",
            "",
            *lines,
            "",
            "tokens_seen is estimated from the mean length of an example; mlm_loss (nats) and "
            "mlm_accuracy are of the run's validation, where the step had one.",
            "",
            f'`AutoModel.from_pretrained("{first}", trust_remote_code=True)` loads one from here, '
            f'`from_pretrained("OWNER/NAME", revision="{first}", trust_remote_code=True)` from the '
            "Hub, once they are branches there, and the last one without a revision:",
            "",
            "```bash",
            *pushes,
            "```",
            "",
        ]
    )


def _cell(value: Any) -> str:
    if isinstance(value, (int, float)):
        return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
    return "-" if value is None else str(value)
