"""Examples per second of the pretraining loader, beside row-by-row collators on the same text.

    python benchmarks/data_loading.py --folder data/<corpus>      (or without: a synthetic corpus)

Our rates are for all the work: places, pairs, segments, masks, tensors from a memory-mapped token
file. The rivals get finished rows (input ids, types, segments) from an Arrow table and only collate
and mask. Single-process rates are per second of CPU time, DataLoader rates per second of wall time.
Then a consumer that does nothing but take `--consumer_rate` examples per second says how long it
waited for them.
"""

# ruff: noqa: E402 (the search path is mended before the imports that need it)
import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
# A benchmark beside this file is named like the package data_prep: this folder must come last.
sys.path[:] = [
    str(_HERE.parent),
    *(entry for entry in sys.path if Path(entry or ".").resolve() != _HERE),
    str(_HERE),
]

import numpy as np
import torch
from _common import RESULTS, bar_chart, interleaved, machine, save, spread, synthetic_folder

from data_prep.manifest import SPECIAL_TOKENS, TokenizerInfo
from data_prep.shards import TokenShards
from pretrain.batches import Batch, SegmentConfig
from pretrain.dataset import PretrainDataset
from pretrain.masking import MaskingConfig
from pretrain.objectives import OBJECTIVES
from pretrain.packing import PackingConfig
from pretrain.plan import make_plan
from pretrain.sampler import SampleStream
from pretrain.transport import BatchLoader, pack_batch

Row = dict[str, Any]


def our_dataset(shards: TokenShards, max_len: int) -> PretrainDataset:
    packing = PackingConfig(max_len=max_len)
    stream = SampleStream(shards, OBJECTIVES["mlm_sso"], packing, seed=1)
    return PretrainDataset(
        stream, max_len=max_len, masking=MaskingConfig(), segments=SegmentConfig(), seed=1
    )


def batches_of(size: int, count: int, limit: int) -> list[list[int]]:
    """Return `count` batches of sample numbers below `limit`, cyclic."""
    return [[(n * size + k) % limit for k in range(size)] for n in range(count)]


def cpu_rate(build: Callable[[list[int]], object], chosen: list[list[int]]) -> float:
    """Return examples per second of CPU time of this process."""
    start = time.process_time()
    for samples in chosen:
        build(samples)
    return sum(map(len, chosen)) / (time.process_time() - start)


def wall_rate(loader: Iterator[Batch], batch_size: int, count: int) -> float:
    """Return examples per second of wall time."""
    start = time.perf_counter()
    for _ in range(count):
        next(loader)
    return batch_size * count / (time.perf_counter() - start)


def endless(dataset: PretrainDataset, batch_size: int) -> Iterator[Batch]:
    """Yield batches from one worker process, without end."""
    chosen = [list(range(n, n + batch_size)) for n in range(0, 2_000_000, batch_size)]
    return iter(BatchLoader(dataset, batch_sampler=chosen, collate_fn=pack_batch, num_workers=1))


def waiting_share(loader: Iterator[Batch], batch_size: int, *, rate: float, count: int) -> float:
    """Return the share of its time that a consumer of `rate` examples per second waits for batches.

    The consumer is a sleep, as a GPU is one for the CPU; fetching a batch counts as waiting.
    """
    waited_s, step_s = 0.0, batch_size / rate
    start = time.perf_counter()
    for _ in range(count):
        asked = time.perf_counter()
        next(loader)
        waited_s += time.perf_counter() - asked
        time.sleep(step_s)
    return waited_s / (time.perf_counter() - start)


def arrow_rows(dataset: PretrainDataset, count: int) -> Any:
    """Return the same examples, tokenised and paired beforehand, as an Arrow table."""
    from datasets import Dataset

    batch = dataset.__getitems__(range(count))
    rows: list[Row] = []
    for row in range(count):
        size = int(batch["mask"][row].sum())
        names = ("input_ids", "token_type_ids", "segment_ids", "special_mask")
        columns = {name: batch[name][row, :size].tolist() for name in names}
        columns["special_tokens_mask"] = [int(flag) for flag in columns.pop("special_mask")]
        rows.append(columns | {"pair_label": int(batch["pair_labels"][row])})
    return Dataset.from_list(rows)


class RowByRowCollator:
    """Pads one row after the other and masks with torch: the usual collator, written plainly."""

    def __init__(self, tokenizer: TokenizerInfo, max_len: int) -> None:
        self.tokenizer = tokenizer
        self.max_len = max_len

    def __call__(self, rows: list[Row]) -> Batch:  # noqa: D102
        fills = {"input_ids": self.tokenizer.pad_id, "token_type_ids": 0, "segment_ids": 0}
        fills["special_tokens_mask"] = 1
        batch = {
            name: torch.tensor(
                [row[name] + [fill] * (self.max_len - len(row[name])) for row in rows]
            )
            for name, fill in fills.items()
        }
        ids, special = batch["input_ids"], batch.pop("special_tokens_mask").bool()
        chosen = torch.bernoulli(torch.full(ids.shape, 0.15).masked_fill_(special, 0.0)).bool()
        batch["labels"] = ids.masked_fill(~chosen, -100)
        replaced = torch.bernoulli(torch.full(ids.shape, 0.8)).bool() & chosen
        randomised = torch.bernoulli(torch.full(ids.shape, 0.5)).bool() & chosen & ~replaced
        ids[replaced] = self.tokenizer.mask_id
        ids[randomised] = torch.randint(self.tokenizer.vocab_size, (int(randomised.sum()),))
        batch["pair_labels"] = torch.tensor([row["pair_label"] for row in rows])
        return batch


def transformers_collator(folder: Path, max_len: int) -> Callable[[list[Row]], object] | None:
    """Return the library's own collator with padding to `max_len`; None if it is not installed."""
    if find_spec("transformers") is None:
        return None
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    special = dict(zip(names, SPECIAL_TOKENS, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)
    collator = DataCollatorForLanguageModeling(tokenizer, pad_to_multiple_of=max_len)
    known = ("input_ids", "token_type_ids", "special_tokens_mask")

    def collate(rows: list[Row]) -> object:
        # Segment ids are left out: its padding knows the tokenizer's own columns only.
        return collator([{name: row[name] for name in known} for row in rows])

    return collate


def measure(shards: TokenShards, max_len: int, *, batch_size: int, rounds: int) -> dict[str, Any]:
    """Return rates by rival for one sequence length."""
    dataset = our_dataset(shards, max_len)
    size = len(dataset)
    count = max(10, 40 * 512 // max_len)
    rows = arrow_rows(dataset, min(size, 20 * batch_size))
    few = batches_of(batch_size, max(2, count // 10), len(rows))
    many = batches_of(batch_size, count, size)
    loader = endless(dataset, batch_size)
    collate = RowByRowCollator(shards.manifest.tokenizer, max_len)
    rivals: dict[str, Callable[[], float]] = {
        "ours, one process (CPU time)": lambda: cpu_rate(dataset.__getitems__, many),
        "ours, DataLoader with 1 worker (wall)": lambda: wall_rate(loader, batch_size, count),
        "row-by-row collator, Arrow rows (CPU time)": lambda: cpu_rate(
            lambda samples: collate([rows[n] for n in samples]), few
        ),
    }
    library = transformers_collator(shards.folder, max_len)
    if library is not None:
        rivals["transformers collator, Arrow rows (CPU time)"] = lambda: cpu_rate(
            lambda samples: library([rows[n] for n in samples]), few
        )
    return interleaved(rivals, rounds=rounds)


def planning(shards: TokenShards, max_len: int) -> dict[str, float]:
    """Return how fast an epoch is planned (CPU time) and how well it uses tokens and positions."""
    start = time.process_time()
    packing = PackingConfig(max_len=max_len)
    plan = make_plan(shards, OBJECTIVES["mlm_sso"], packing, seed=1, epoch=0)
    seconds = time.process_time() - start
    real = float((plan.a_len.astype(np.int64) + plan.b_len + 3).mean())
    arrays = (plan.a_start, plan.b_start, plan.a_len, plan.b_len, plan.label)
    return {
        "sentences_per_s": shards.num_sentences / seconds,
        "seconds": seconds,
        "examples": len(plan),
        "coverage": plan.stats.coverage,
        "fill": real / max_len,
        "bytes_per_example": sum(array.nbytes for array in arrays) / len(plan),
    }


def consumer(shards: TokenShards, max_len: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what one that trains at `--consumer_rate` (at 512 tokens) waits for one worker."""
    rate, batch_size = arguments.consumer_rate * 512 / max_len, arguments.consumer_batch
    loader = endless(our_dataset(shards, max_len), batch_size)
    for _ in range(5):
        next(loader)  # the worker is started, and its queue is full
    count = max(10, round(2 * rate / batch_size))
    shares = [
        waiting_share(loader, batch_size, rate=rate, count=count) for _ in range(arguments.rounds)
    ]
    return {
        "examples_per_s": rate,
        "batch_size": batch_size,
        "workers": 1,
        "waiting_share": {**spread(shares), "all": shares},
    }


def report(folder: Path, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    shards = TokenShards.open(folder)
    result: dict[str, Any] = {
        "machine": machine(),
        "corpus": "synthetic" if arguments.folder is None else "given",
        "tokens": shards.num_tokens,
        "sentences": shards.num_sentences,
        "batch_size": arguments.batch_size,
        "lengths": {},
    }
    bars: dict[str, float] = {}
    for max_len in arguments.max_len:
        plan = planning(shards, max_len)
        rates = measure(shards, max_len, batch_size=arguments.batch_size, rounds=arguments.rounds)
        waits = consumer(shards, max_len, arguments)
        result["lengths"][str(max_len)] = {"plan": plan, "examples_per_s": rates, "consumer": waits}
        print(
            f"length {max_len}: epoch of {plan['examples']:,} examples planned at "
            f"{plan['sentences_per_s']:,.0f} sentences/s, coverage {plan['coverage']:.4%}, "
            f"fill {plan['fill']:.1%}"
        )
        for name, rate in rates.items():
            print(f"  {name:46s} {rate['median']:10,.0f} examples/s", end="")
            print(f"  [{rate['min']:,.0f} .. {rate['max']:,.0f}]")
            bars[f"{max_len}: {name}"] = rate["median"]
        print(
            f"  a consumer of {waits['examples_per_s']:,.0f} examples/s waits "
            f"{waits['waiting_share']['median']:.2%} of its time for 1 worker"
        )
    print(save("data_loading", result, arguments.output))
    title = "Pretraining examples per second, one core"
    print(bar_chart("data_loading", bars, title=title, unit="examples/s", folder=arguments.output))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, help="shards made by `python -m data_prep build`")
    parser.add_argument("--max_len", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--consumer_rate", type=float, default=4000, help="examples of 512 per s")
    parser.add_argument("--consumer_batch", type=int, default=256, help="examples it takes at once")
    parser.add_argument("--sentences", type=int, default=400_000, help="of the synthetic corpus")
    parser.add_argument("--short", action="store_true", help="a quick look: 2 rounds, small corpus")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.short:
        arguments.rounds, arguments.sentences = 2, 100_000
    if arguments.folder is not None:
        report(arguments.folder, arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        report(synthetic_folder(Path(folder), num_sentences=arguments.sentences), arguments)


if __name__ == "__main__":
    main()
