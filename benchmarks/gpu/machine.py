"""The rates that the GPU reaches by itself, and which attention PyTorch runs on it."""

import importlib
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.cells import Cell, Sizes
from benchmarks.gpu.profiles import profiler
from benchmarks.harness import Clock, Step, copying, first_calls, product, run_rounds, times
from benchmarks.report import Row
from benchmarks.rivals import CONFIG_CLASSES, flash_version
from ponet.losses import added_words

QUERY = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,memory.total"
BACKENDS = {"as chosen": None, "flash": SDPBackend.FLASH_ATTENTION}
BACKENDS |= {"cuDNN": SDPBackend.CUDNN_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
KERNEL_WORDS = ("attention", "flash", "fmha", "cudnn", "sdpa", "efficient")


def cells(sizes: Sizes) -> list[Cell]:
    """Return the cells of the stage."""
    config = CONFIG_CLASSES["bert"].preset(sizes.encoder)  # type: ignore[arg-type]
    form: dict[str, Any] = {"width": config.hidden_size, "num_heads": config.num_heads}
    attention = [
        (f"attention, {n} tokens", lambda n=n: attention_rows(sizes, n, **form))
        for n in sizes.lengths
    ]
    return [
        ("versions", lambda: [versions(sizes)]),
        ("rates", lambda: rates(sizes)),
        ("products", lambda: products(sizes, config.hidden_size, config.ffn_size)),
        ("global branch", lambda: global_branch(sizes, **form)),
        *attention,
        ("attention, mixed lengths", lambda: mixed_lengths(sizes, **form)),
    ]


def versions(sizes: Sizes) -> Row:
    """Return what runs here."""
    found: Row = {"torch": torch.__version__, "flash": flash_version()}
    for name in ("triton", "pytorch_lightning", "numpy"):
        with suppress(ImportError):
            found[name] = importlib.import_module(name).__version__
    if sizes.is_dry:
        return found
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    with suppress(OSError):  # there is a card, but not always this program
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
        found["nvidia_smi"] = shown.stdout.strip() or shown.stderr.strip()[:200]
    found["gpu"] = torch.cuda.get_device_name()
    found["capability"] = list(torch.cuda.get_device_capability())
    return found | {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def timed(steps: Mapping[str, Step], sizes: Sizes) -> Iterator[tuple[str, Row]]:
    """Return the time of every step, rivals in turn; of those that fail, why."""
    alive, errors = first_calls(steps)
    clock = Clock(device=sizes.device, threads=torch.get_num_threads())
    samples = run_rounds(alive, rounds=sizes.rounds, clock=clock)
    for name in steps:
        yield (
            name,
            {"not_here": errors[name]}
            if name in errors
            else {"s": times(samples[name], clock.deciding)},
        )


def rates(sizes: Sizes) -> list[Row]:
    """Return bytes and operations per second of a copy and of a square product."""
    side, device, moved = sizes.side, sizes.device, sizes.copied_bytes
    square = product(side, side, side, dtype=torch.bfloat16, device=device)
    amounts = {"copy": 2.0 * moved, "product": 2.0 * side**3}
    steps = {"copy": copying(moved, device=device), "product": square}
    return [with_rate(name, row, amounts[name]) for name, row in timed(steps, sizes)]


def with_rate(name: str, row: Row, amount: float) -> Row:
    """Return a row with what it does per second."""
    rate = {"per_s": amount / row["s"]["median"]} if "s" in row else {}
    return {"name": name, **row, **rate}


def products(sizes: Sizes, width: int, inner: int) -> list[Row]:
    """Return the rates of the products of a step.

    Those with the vocabulary twice: rows of 30,522 words of two bytes begin at multiples of 4
    bytes, those of the vocabulary as the loss fills it up at multiples of 16.
    """
    tokens, masked = sizes.tokens, max(1, sizes.tokens * 19 // 128)
    shapes = {
        "projection": (tokens, width, width),
        "three projections": (tokens, width, 3 * width),
        "expand": (tokens, width, inner),
        "contract": (tokens, inner, width),
        "weight gradient": (width, tokens, width),
        "weight gradient, expand": (width, tokens, inner),
    }
    form: Any = {"dtype": torch.bfloat16, "device": sizes.device}
    steps = {name: product(*shape, **form) for name, shape in shapes.items()}
    amounts = {name: 2.0 * a * b * c for name, (a, b, c) in shapes.items()}
    x = torch.randn(masked, width, device=sizes.device).bfloat16()
    for name, room in (
        ("vocabulary", 0),
        ("vocabulary, filled up", added_words(sizes.vocab_size, "cuda")),
    ):
        words = torch.randn(sizes.vocab_size + room, width, device=sizes.device).bfloat16()
        logits = words.new_empty((masked, len(words)))
        steps[name] = lambda w=words, out=logits: torch.mm(x, w.t(), out=out)
        steps[f"{name}, to x"] = lambda w=words, out=logits: out @ w
        steps[f"{name}, to words"] = lambda out=logits: out.t() @ x
        amount = 2.0 * masked * width * sizes.vocab_size
        amounts |= {name: amount, f"{name}, to x": amount, f"{name}, to words": amount}
    return [with_rate(name, row, amounts[name]) for name, row in timed(steps, sizes)]


def global_branch(sizes: Sizes, *, width: int, num_heads: int) -> list[Row]:
    """Return the times of the scores of the global pool: float32, TF32, and bfloat16 inputs.

    The last has float32 sums, where torch.bmm knows `out_dtype`.
    """
    num_tokens = sizes.lengths[0]
    shape = (max(1, sizes.tokens // num_tokens), num_tokens, width)
    x_BLD = torch.randn(shape, device=sizes.device)
    probe_BHD = torch.randn(shape[0], num_heads, width, device=sizes.device)
    low_BLD, low_BHD = x_BLD.bfloat16(), probe_BHD.bfloat16()

    def wide(precision: str) -> None:
        kept = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        torch.bmm(probe_BHD, x_BLD.transpose(1, 2))
        torch.set_float32_matmul_precision(kept)

    def low() -> Tensor:
        return torch.bmm(low_BHD, low_BLD.transpose(1, 2), out_dtype=torch.float32)

    steps = {"float32": lambda: wide("highest"), "TF32": lambda: wide("high"), "bf16": low}
    moved = float(x_BLD.nbytes)
    return [
        with_rate(name, row, moved / (1 + (name == "bf16"))) for name, row in timed(steps, sizes)
    ]


def heads(sizes: Sizes, num_tokens: int, *, width: int, num_heads: int) -> list[Tensor]:
    """Return queries, keys and values (B, H, L, K) of a step's tokens."""
    shape = (max(1, sizes.tokens // num_tokens), num_heads, num_tokens, width // num_heads)
    form: Any = {"device": sizes.device, "dtype": torch.bfloat16, "requires_grad": True}
    return [torch.randn(shape, **form) for _ in range(3)]


def attention_rows(sizes: Sizes, num_tokens: int, **form: int) -> list[Row]:
    """Return times of attention, forward and backward, by each kernel; which one PyTorch takes."""
    values = heads(sizes, num_tokens, **form)
    mask = torch.ones(len(values[0]), 1, 1, num_tokens, dtype=torch.bool, device=sizes.device)
    steps: dict[str, Step] = {}
    for name, backend in BACKENDS.items():
        for said, given in (("", None), (", mask", mask)):
            steps[name + said] = lambda b=backend, m=given: attend(values, b, m)
    rows = [{"name": name, "num_tokens": num_tokens, **row} for name, row in timed(steps, sizes)]
    for row in rows:
        if row["name"].startswith("as chosen") and "s" in row:
            row["kernels"] = kernels_of(steps[row["name"]])
    return rows


def attend(values: list[Tensor], backend: Any, mask: Tensor | None) -> None:
    """Attend and go back through it."""
    with nullcontext() if backend is None else sdpa_kernel(backend):
        result = F.scaled_dot_product_attention(*values, attn_mask=mask)
    torch.autograd.grad(result.sum(), values)


def kernels_of(step: Step) -> list[str]:
    """Return operators and kernels that a step runs and that are attention by their names."""
    with profiler() as taken:
        step()
    names = dict.fromkeys(event.key for event in taken.key_averages())
    return [n[:120] for n in names if any(w in n.lower() for w in KERNEL_WORDS)][:12]


def mixed_lengths(sizes: Sizes, *, width: int, num_heads: int) -> list[Row]:
    """Return times of texts of mixed lengths: packed, with varlen_attn, and padded, with a mask.

    Lengths lie evenly between a quarter of the longest and the longest, so 62 % is no padding.
    """
    from torch.nn.attention.varlen import varlen_attn

    most = sizes.lengths[0]
    num_texts = max(1, sizes.tokens // most)
    lens = torch.linspace(most // 4, most, num_texts).long()
    ends = F.pad(lens.cumsum(0), (1, 0)).int().to(sizes.device)
    total, head = int(lens.sum()), width // num_heads
    form: Any = {"device": sizes.device, "dtype": torch.bfloat16, "requires_grad": True}
    packed = [torch.randn(total, num_heads, head, **form) for _ in range(3)]
    padded = heads(sizes, most, width=width, num_heads=num_heads)
    mask = (torch.arange(most) < lens[:, None])[:, None, None].to(sizes.device)

    def varlen() -> None:
        result = varlen_attn(*packed, ends, ends, most, most)
        torch.autograd.grad(result.sum(), packed)  # type: ignore[union-attr]

    steps = {"varlen_attn": varlen, "padded": lambda: attend(padded, None, mask)}
    share = total / (num_texts * most)
    return [{"name": name, "fill": share, **row} for name, row in timed(steps, sizes)]


def has_gpu() -> bool:
    """Return whether there is a CUDA device."""
    return torch.cuda.is_available()
