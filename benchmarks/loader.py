"""Examples per second of the pretraining loader, beside row-by-row collators on the same text.

    python -m benchmarks.loader --folder data/<corpus>      (or without: a synthetic corpus)

Our rates are for all the work: places, pairs, segments, masks, tensors from a memory-mapped token
file. The rivals get finished rows (input ids, types, segments) from an Arrow table and only collate
and mask. Single-process rates are per second of CPU time, DataLoader rates per second of wall time.
Then a consumer that does nothing but take `--consumer_rate` examples per second says how long it
waited for them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import page, report
from benchmarks.harness import interleaved, spread
from benchmarks.report import ROUNDS, Option, Options, Row
from benchmarks.runs import shards_in
from data_prep.manifest import SPECIAL_TOKENS, TokenizerInfo
from data_prep.shards import TokenShards
from pretrain.batches import Batch, PretrainDataset
from pretrain.loader import BatchLoader, pack_batch
from pretrain.objectives import OBJECTIVES
from pretrain.packing import PackingConfig
from pretrain.plan import make_plan

OPTIONS = {
    "rounds": Option(5, ROUNDS, short=2),
    "folder": Option(None, "shards made by `python -m data_prep build`", kind=Path),
    "max_len": Option([512, 2048], "tokens of an example"),
    "batch_size": Option(32),
    "consumer_rate": Option(4000.0, "examples of 512 tokens per second"),
    "consumer_batch": Option(256, "examples it takes at once"),
    "sentences": Option(400_000, "of the synthetic corpus", short=100_000),
}


def our_dataset(shards: TokenShards, max_len: int) -> PretrainDataset:
    return PretrainDataset(shards, OBJECTIVES["mlm_sso"], PackingConfig(max_len=max_len), seed=1)


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
    waited_s, start = 0.0, time.perf_counter()
    for _ in range(count):
        asked = time.perf_counter()
        next(loader)
        waited_s += time.perf_counter() - asked
        time.sleep(batch_size / rate)
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


def row_by_row(rows: list[Row], tokenizer: TokenizerInfo, max_len: int) -> Batch:
    """Pad one row after the other and mask with torch: the usual collator, written plainly."""
    fills = {"input_ids": tokenizer.pad_id, "token_type_ids": 0, "segment_ids": 0}
    fills["special_tokens_mask"] = 1
    batch = {
        name: torch.tensor([row[name] + [fill] * (max_len - len(row[name])) for row in rows])
        for name, fill in fills.items()
    }
    ids, special = batch["input_ids"], batch.pop("special_tokens_mask").bool()
    chosen = torch.bernoulli(torch.full(ids.shape, 0.15).masked_fill_(special, 0.0)).bool()
    batch["labels"] = ids.masked_fill(~chosen, -100)
    replaced = torch.bernoulli(torch.full(ids.shape, 0.8)).bool() & chosen
    randomised = torch.bernoulli(torch.full(ids.shape, 0.5)).bool() & chosen & ~replaced
    ids[replaced] = tokenizer.mask_id
    ids[randomised] = torch.randint(tokenizer.vocab_size, (int(randomised.sum()),))
    batch["pair_labels"] = torch.tensor([row["pair_label"] for row in rows])
    return batch


def transformers_collator(folder: Path, max_len: int) -> Callable[[list[Row]], object]:
    """Return the library's own collator with padding to `max_len`."""
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    special = dict(zip(names, SPECIAL_TOKENS, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)
    collator = DataCollatorForLanguageModeling(tokenizer, pad_to_multiple_of=max_len)
    # Segment ids are left out: its padding knows the tokenizer's own columns only.
    known = ("input_ids", "token_type_ids", "special_tokens_mask")
    return lambda rows: collator([{name: row[name] for name in known} for row in rows])


def measure(shards: TokenShards, max_len: int, options: Options) -> dict[str, Any]:
    """Return rates by rival for one sequence length."""
    dataset, size = our_dataset(shards, max_len), options.batch_size
    count = max(10, 40 * 512 // max_len)
    rows = arrow_rows(dataset, min(len(dataset), 20 * size))
    loader = endless(dataset, size)

    def batches(count: int, limit: int) -> list[list[int]]:
        return [[(n * size + k) % limit for k in range(size)] for n in range(count)]

    few, many = batches(max(2, count // 10), len(rows)), batches(count, len(dataset))
    tokenizer = shards.manifest.tokenizer
    rivals: dict[str, Callable[[], float]] = {
        "ours, one process (CPU time)": lambda: cpu_rate(dataset.__getitems__, many),
        "ours, DataLoader with 1 worker (wall)": lambda: wall_rate(loader, size, count),
        "row-by-row collator, Arrow rows (CPU time)": lambda: cpu_rate(
            lambda samples: row_by_row([rows[n] for n in samples], tokenizer, max_len), few
        ),
    }
    if find_spec("transformers") is not None:
        library = transformers_collator(shards.folder, max_len)
        rivals["transformers collator, Arrow rows (CPU time)"] = lambda: cpu_rate(
            lambda samples: library([rows[n] for n in samples]), few
        )
    return interleaved(rivals, rounds=options.rounds)


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


def consumer(shards: TokenShards, max_len: int, options: Options) -> dict[str, Any]:
    """Return what one that trains at `--consumer_rate` (at 512 tokens) waits for one worker."""
    rate, batch_size = options.consumer_rate * 512 / max_len, options.consumer_batch
    loader = endless(our_dataset(shards, max_len), batch_size)
    for _ in range(5):
        next(loader)  # the worker is started, and its queue is full
    count = max(10, round(2 * rate / batch_size))
    shares = [
        waiting_share(loader, batch_size, rate=rate, count=count) for _ in range(options.rounds)
    ]
    found = {"examples_per_s": rate, "batch_size": batch_size, "workers": 1}
    return found | {"waiting_share": {**spread(shares), "all": shares}}


def main(arguments: Sequence[str] | None = None) -> None:
    options = report.parse(__doc__, OPTIONS, arguments)
    torch.set_num_threads(1)
    lengths: dict[str, Any] = {}
    bars: dict[str, Any] = {}
    with shards_in(options.folder, num_sentences=options.sentences) as (folder, _):
        shards = TokenShards.open(folder)
        for max_len in options.max_len:
            plan, rates = planning(shards, max_len), measure(shards, max_len, options)
            waits = consumer(shards, max_len, options)
            lengths[str(max_len)] = {"plan": plan, "examples_per_s": rates, "consumer": waits}
            bars |= {f"{max_len}: {name}": rate for name, rate in rates.items()}
            print(f"{max_len} tokens: {plan}", flush=True)
    content: dict[str, Any] = {"tokens": shards.num_tokens, "lengths": lengths}
    content |= {"sentences": shards.num_sentences, "targets": page.loader_targets(content)}
    report.finish("loader", content, options)
    panels = {"Pretraining examples per second, one core": {"median": bars}}
    report.bar_chart(panels, options.output / "loader.png", unit="examples/s")


if __name__ == "__main__":
    main()
