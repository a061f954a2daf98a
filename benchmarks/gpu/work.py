"""Kernels, layers, whole steps and Table 2: the measurements of this folder, cell by cell."""

import argparse
import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import encoders, lra_table2, pretraining, triton_kernels
from benchmarks.gpu import profiles
from benchmarks.gpu.cells import Cell, Sizes
from benchmarks.harness import LIMITS, measure_steps, told
from benchmarks.report import Row
from benchmarks.rivals import CONFIG_CLASSES, Rival, Setting, flash_version
from benchmarks.runs import synthetic_folder

Rivals = Sequence[Rival]
FLASH: dict[str, Any] = {"kind": "bert", "attention": "flash"}


def plain_rivals() -> list[Rival]:
    """Return what is compared without compilation."""
    kernels = ("reference", "eager", "auto")
    mine = [Rival(kind="ponet", kernels=name) for name in kernels]
    others: list[Any] = [{"kind": "bert"}, FLASH, {"kind": "local_global"}, {"kind": "fnet"}]
    return [Rival(kind="official"), *(Rival(**other) for other in others), *mine]


def compiled_rivals(**form: Any) -> list[Rival]:
    """Return what is compared compiled; the first is ours."""
    kinds: list[Any] = [{"kind": "ponet"}, {"kind": "bert"}, FLASH, {"kind": "local_global"}]
    kinds.append({"kind": "fnet"})
    return [Rival(**kind, compile_mode="default", **form) for kind in kinds]


def options_of(sizes: Sizes, **other: Any) -> argparse.Namespace:
    """Return the options that the measurements of this folder take."""
    common = {"device": sizes.device, "threads": torch.get_num_threads(), "rounds": sizes.rounds}
    common |= {"tokens_per_step": sizes.tokens, "precision": "bf16", "slow_s": 5.0}
    common |= {"tokens": sizes.tokens, "vocab_size": sizes.vocab_size, "dropout": 0.1}
    return argparse.Namespace(**{**common, **other})


def kernel_cells(sizes: Sizes) -> list[Cell]:
    """Return the cells of the pooling kernels: their rates, and other sizes of tiles."""
    config = CONFIG_CLASSES["ponet"].preset(sizes.encoder)  # type: ignore[arg-type]
    lengths = dict.fromkeys((sizes.lengths[0], sizes.lengths[-1]))
    options = options_of(sizes, width=config.hidden_size, lengths=list(lengths))
    names = ("eager",) if sizes.is_dry else ("triton", "eager")
    found: list[Cell] = [
        (
            f"{tokens} tokens, segments of {segment}",
            lambda n=tokens, s=segment: triton_kernels.measure(options, n, s, names),
        )
        for tokens in lengths
        for segment in (25, max(25, tokens))
    ]
    swept = () if sizes.is_dry else triton_kernels.SWEPT
    return found + [
        (f"tiles of {form}", lambda form=form: [triton_kernels.timed_sizes(options, *form)])
        for form in swept
    ]


def layer_cells(sizes: Sizes) -> list[Cell]:
    """Return the cells of one layer: all rivals at each length, plain and compiled."""
    compiled = [*compiled_rivals(), Rival(kind="ponet")]
    places = [(sizes.encoder, n) for n in sizes.lengths] + [(sizes.small, sizes.lengths[0])]
    found: list[Cell] = []
    for preset, tokens in places:
        for form, rivals in (("plain", plain_rivals()), ("compiled", compiled)):
            found.append((
                f"{preset}, {tokens} tokens, {form}",
                lambda p=preset, n=tokens, r=rivals: layer_rows(sizes, p, n, r),
            ))  # fmt: skip
    first, whole = sizes.lengths[0], [Rival(kind="ponet"), compiled[0]]
    depths: list[Cell] = [
        (f"profile, {r.label}", lambda r=r: profiles.encoder_kernels(sizes, r, first))
        for r in whole
    ]
    return found[:2] + depths + found[2:]


def setting_of(sizes: Sizes, preset: str, part: Any = "layer") -> Setting:
    """Return the setting of a training step in bf16."""
    form: Any = {"size": preset, "precision": "bf16", "device": sizes.device}
    return Setting(part=part, mode="training", **form)


def layer_rows(sizes: Sizes, preset: str, num_tokens: int, rivals: Rivals) -> list[Row]:
    """Return the rows of encoders.measure, and one per rival that fails."""
    flash_version()
    options = options_of(sizes, lengths=[num_tokens])
    found = encoders.measure(setting_of(sizes, preset), list(rivals), options)
    return [*found["rows"], *found["errors"], {"rates": found["rates"]}]


def step_cells(sizes: Sizes) -> list[Cell]:
    """Return the cells of whole pretraining steps, loader included."""
    form: Any = {"precision": "bf16"}
    compiled = compiled_rivals(**form)
    rivals = [*compiled, Rival(kind="ponet", **form), Rival(kind="official", **form)]
    long = [rival for rival in compiled if rival.kind != "fnet" and not rival.attention]
    launched: list[Any] = [{"compile_mode": "reduce-overhead"}, {"compile_mode": "default"}]
    fewer = [Rival(kind="ponet", compiles_plan=True, **form, **each) for each in launched]
    fewer = [Rival(kind="ponet", compile_mode="reduce-overhead", **form), *fewer]
    first, *others = sizes.lengths
    places = [(sizes.encoder, first, rivals), (sizes.small, first, [*compiled, *fewer])]
    places += [(sizes.encoder, n, long) for n in reversed(others)]
    joined = [dataclasses.replace(rival, savings="both") for rival in long]
    found: list[Cell] = [
        (f"{p}, {n} tokens", lambda p=p, n=n, r=r: step_rows(sizes, p, n, r)) for p, n, r in places
    ]
    in_rows = f"{sizes.encoder}, {first} tokens, joined texts"
    found.append((in_rows, lambda: step_rows(sizes, sizes.encoder, first, joined)))
    profiled = [compiled[0], compiled[1], fewer[-1]]
    kernels = f"{sizes.small}, {first} tokens, kernels"
    found.insert(2, (kernels, lambda: step_kernels(sizes, sizes.small, profiled)))
    return found


def step_rows(sizes: Sizes, preset: str, num_tokens: int, rivals: Rivals) -> list[Row]:
    """Return the rows of pretraining.measure, and one per rival that fails."""
    flash_version()
    options = step_options(sizes, preset, num_tokens)
    with shards_of(sizes) as shards:
        rows, failed = pretraining.measure(shards, [num_tokens], options, rivals)
    return [{"encoder": preset, **row} for row in (*rows, *failed)]


def step_kernels(sizes: Sizes, preset: str, rivals: Rivals) -> list[Row]:
    """Return what whole steps spend on the device."""
    options = step_options(sizes, preset, sizes.lengths[0])
    with shards_of(sizes) as shards:
        return profiles.step_kernels(sizes, preset, shards, rivals, options)


def step_options(sizes: Sizes, preset: str, num_tokens: int) -> argparse.Namespace:
    """Return the options of whole steps."""
    form: dict[str, Any] = {
        "warmup": sizes.warmup,
        "steps": sizes.steps,
        "rounds": min(2, sizes.rounds),
    }
    form |= {"num_workers": 0 if sizes.is_dry else 4, "encoder": preset}
    return options_of(sizes, lengths=[num_tokens], **form)


@contextlib.contextmanager
def shards_of(sizes: Sizes) -> Iterator[Path]:
    """Give a folder of shards of random tokens, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        yield synthetic_folder(
            Path(folder) / "shards", num_sentences=sizes.sentences, vocab_size=sizes.vocab_size,
            validation_sentences=max(100, sizes.sentences // 100),
        )  # fmt: skip


def table_2_cells(sizes: Sizes) -> list[Cell]:
    """Return the cells of the paper's Table 2, a length each."""
    return [(f"{n} tokens", lambda n=n: table_2_rows(sizes, n)) for n in sizes.table_2]


def table_2_rows(sizes: Sizes, num_tokens: int) -> list[Row]:
    """Return steps per second and memory of all rivals at one length."""
    limits = {name: option.default for name, option in LIMITS.items()}
    options = options_of(sizes, **{**limits, "num_texts": sizes.table_2_texts, "limit_s": 30.0})
    steps, rows = {}, []
    for name in lra_table2.KINDS:
        try:
            steps[name, num_tokens] = lra_table2.make_step(name, num_tokens, options)
        except RuntimeError as error:
            rows.append({"rival": name, "num_tokens": num_tokens, "error": told(error)})
    return rows + measure_steps(steps, options)
