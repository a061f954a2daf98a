"""What stands in a run's folder when its fit is started: nothing, an unfinished or a finished run.

Invariant: nothing is changed here, and a run never goes on with other settings, data or weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from finetune.run_config import RESULT_FILE, RUN_FILES, RunConfig
from training.configuration import RUN_PARTS, changed_inputs, flatten
from training.run_config import CONFIG_FILE
from training.run_folder import own_files

FREE = (
    "run",
    "config",
    "data.num_workers",
    "data.eval_batch_size",
    "data.micro_batch_size",
    "model.gradient_checkpointing",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.default_root_dir",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.logger",
)
"""Settings, and groups of them, that may differ when a run goes on: none changes what is learnt."""

State = Literal["nothing", "unfinished", "finished"]


def earlier_run(run: RunConfig, settings: Mapping[str, Any]) -> State:
    """Return what stands in the run's folder and can go on.

    Args:
        run: The run.
        settings: Its resolved configuration of now, nested.
    """
    if run.overwrite or not own_files(run.folder, own=RUN_FILES):
        return "nothing"
    how = "give another --run.name, or --run.overwrite true to replace it"
    if not (run.folder / CONFIG_FILE).is_file():
        raise ValueError(f"{run.folder} holds an earlier run; {how}")
    stored = yaml.safe_load((run.folder / CONFIG_FILE).read_text(encoding="utf-8"))
    changes = [*differences(stored or {}, settings), *changed_inputs(run.folder)]
    if changes:
        raise ValueError(
            f"{run.folder} holds an earlier run, which this one cannot go on from: "
            f"{'; '.join(changes[:3])}. Either {how}"
        )
    return "finished" if (run.folder / RESULT_FILE).is_file() else "unfinished"


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the settings that differ, in words; those of `FREE` do not count."""
    first, second = _decisive(stored), _decisive(wanted)
    return [
        f"{name} was {first.get(name, 'not given')}, is {second.get(name, 'not given')}"
        for name in sorted({*first, *second})
        if first.get(name) != second.get(name)
        and not _is_one_place(first.get(name), second.get(name))
    ]


def _is_one_place(first: Any, second: Any) -> bool:
    """Return whether two settings name one file or folder; a run is where its bundle lies."""
    if not (isinstance(first, str) and isinstance(second, str)):
        return False
    places = [Path(value) for value in (first, second)]
    if not all(place.exists() for place in places):
        return False
    runs = [p.parent if p.name in RUN_PARTS else p for p in (place.resolve() for place in places)]
    return runs[0] == runs[1]


def _decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    flat = flatten(settings)
    return {k: v for k, v in flat.items() if not any(f"{k}.".startswith(f"{f}.") for f in FREE)}
