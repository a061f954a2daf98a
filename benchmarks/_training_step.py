"""One training step of a classifier of long texts: its time, and its memory in a fresh process."""

import dataclasses
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from ponet import BertConfig, EncoderBatch, FNetConfig, PoNetConfig, SequenceClassifier

KINDS = {"ponet": PoNetConfig, "bert": BertConfig, "fnet": FNetConfig}
PAUSE_S = 0.05
"""How often a fresh process is looked at."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained, and how."""

    kind: str
    """ponet, bert or fnet."""
    size: str
    """base, small or nano."""
    num_tokens: int
    """Tokens of each text."""
    num_texts: int
    """Texts per step."""
    checkpointing: bool
    """Whether blocks are computed again in the backward pass."""
    attention_dropout: float
    """BERT's; 0 lets the CPU use its fused attention."""
    device: str
    """cpu or cuda."""
    precision: str
    """32 or bf16 (autocast)."""
    threads: int
    """CPU threads."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a first step may take."""

    seconds: float
    """From the start of its process."""
    gib: float
    """Resident memory of its process; on CUDA the device's own limit counts."""


class Training:
    """A classifier, its optimizer and random texts in sentences of 25 tokens."""

    def __init__(self, case: Case) -> None:
        torch.set_num_threads(case.threads)
        torch.manual_seed(1)
        self.case = case
        options = {"attention_dropout_prob": case.attention_dropout} if case.kind == "bert" else {}
        config = KINDS[case.kind].preset(case.size, max_positions=case.num_tokens, **options)
        with torch.device(case.device):
            self.model = SequenceClassifier(config, num_labels=2)
        self.model.encoder.gradient_checkpointing = case.checkpointing
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=5e-5)
        self.batch = self._batch(case.num_texts, case.num_tokens)
        self.step(self._batch(1, 16))  # AdamW's state is there from now on

    def _batch(self, num_texts: int, num_tokens: int) -> EncoderBatch:
        shape = (num_texts, num_tokens)
        places = torch.arange(num_tokens).expand(shape)
        ends = (places == 0) | (places == num_tokens - 1)
        return EncoderBatch(
            input_ids=torch.randint(5, self.model.encoder.config.vocab_size, shape),
            mask=torch.ones(shape, dtype=torch.bool),
            token_type_ids=torch.zeros(shape, dtype=torch.int64),
            segment_ids=torch.where(ends, places, 1 + places // 25).clamp(max=num_tokens - 1),
            special_mask=ends,
        ).to(self.case.device)

    def step(self, batch: EncoderBatch) -> float:
        """Do forward, backward and AdamW; return the seconds."""
        self.wait()
        start = time.perf_counter()
        targets_B = torch.zeros(len(batch.mask), dtype=torch.int64, device=self.case.device)
        half = self.case.precision == "bf16"
        with torch.autocast(self.case.device, torch.bfloat16, enabled=half):
            logits_BC = self.model(batch)
        F.cross_entropy(logits_BC.float(), targets_B).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.case.device == "cuda":
            torch.cuda.synchronize()


def step_seconds(case: Case) -> float:
    """Return the seconds of one step; on CUDA the mean of five after two."""
    training = Training(case)
    if case.device == "cpu":
        return training.step(training.batch)
    seconds = [training.step(training.batch) for _ in range(7)]
    return sum(seconds[2:]) / 5


def _kept_and_peak(step: Callable[[], float], device: str) -> dict[str, float]:
    """Do one step; GiB in use before it, and how much more it used at its height."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        kept = torch.cuda.memory_allocated()
        seconds = step()
        peak = torch.cuda.max_memory_allocated()
    else:
        kept = _status("VmRSS")
        seconds = step()
        peak = _status("VmHWM")
    return {"first_s": seconds, "kept_gib": kept / 2**30, "peak_gib": (peak - kept) / 2**30}


def _status(key: str) -> int:
    """Resident bytes of this process: VmRSS now, VmHWM at their height."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # without /proc only the height is known
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _first_step(case: Case, pipe: Any) -> None:
    try:
        training = Training(case)
        pipe.send(_kept_and_peak(lambda: training.step(training.batch), case.device))
    except torch.OutOfMemoryError:
        pipe.send({"over": "the memory of the device"})


def first_step(case: Case, limits: Limits) -> dict[str, Any]:
    """Do one step in a process of its own: seconds and GiB, or {"over": which limit}.

    Raises:
        RuntimeError: The process failed in another way.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ponet"])  # torch is imported once, and no thread runs there
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_first_step, args=(case, sender), daemon=True)
    process.start()
    sender.close()
    start, over = time.monotonic(), ""
    while not receiver.poll(PAUSE_S) and not over:
        if time.monotonic() - start > limits.seconds:
            over = f"{limits.seconds:g} s for a first step"
        elif case.device == "cpu" and _resident_gib(process.pid) > limits.gib:
            over = f"{limits.gib:.3g} GiB"
    if over:
        process.kill()
    try:
        found: dict[str, Any] = {"over": over} if over else receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode != -9:
            raise RuntimeError(f"{dataclasses.asdict(case)}: see the error above") from None
        found = {"over": "the memory of the machine"}
    process.join()
    return found


def _resident_gib(pid: int | None) -> float:
    statm = Path(f"/proc/{pid}/statm")
    try:
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**30
    except (OSError, IndexError):  # just ended, or a system without /proc
        return 0.0
