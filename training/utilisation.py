"""How well a run uses its device: the peak rate, the memory, and the wait for data.

Invariant: nothing here makes the device wait once the first step has begun.
"""

import re
import resource
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from pytorch_lightning.profilers import PassThroughProfiler

FETCH = "[_TrainingEpochLoop].train_dataloader_next"
"""Lightning's name for the moment in which training asks for the next batch."""
DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32, "64": torch.float64}
MEASURING_S = 0.1
"""How long the peak rate is measured, at least."""
FAST_BF16 = 1.5
"""From this ratio of a bfloat16 product's rate to a float32 product's on, bf16-mixed pays on a CPU,
where casts and all that stays in float32 take their part."""

# Words of a GPU's name: TFLOP/s of dense matrix products in 16 bits, TF32 and float32, from the
# maker's data sheets (those with sparsity are twice as high). The first entry that fits is taken.
KNOWN_TFLOPS = {
    "H200 NVL": (835.5, 417.5, 60.0),
    "H200": (989.4, 494.7, 66.9),
    "H100 NVL": (835.5, 417.5, 60.0),
    "H100 PCIE": (756.0, 378.0, 51.2),
    "H100 HBM3": (989.4, 494.7, 66.9),
    "A100": (312.0, 156.0, 19.5),
    "L40S": (362.0, 183.0, 91.6),
    "L4": (121.0, 60.0, 30.3),
    "A10": (125.0, 62.5, 31.2),
    "RTX 4090": (165.2, 82.6, 82.6),
    "RTX 3090": (71.0, 35.6, 35.6),
}


class PeakRate(NamedTuple):
    """What a share of the peak is a share of."""

    flops_per_s: float
    """Operations of matrix products per second and device."""
    source: str
    """Where the number comes from, for the log."""
    is_measured: bool = False
    """Whether this process has measured it."""


def peak_rate(device: torch.device, precision: str, *, tflops: float = 0.0) -> PeakRate:
    """Return the rate of matrix products that a device could reach.

    Args:
        device: The device of this rank.
        precision: Lightning's name, such as `bf16-mixed`.
        tflops: 10^12 operations per second where the user knows better; 0: from the table of
            GPUs, or by a short measurement (0.1 s) for other devices.
    """
    if tflops:
        return PeakRate(tflops * 1e12, "given by run.peak_tflops")
    dtype = operand_type(precision)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = known_tflops(name, dtype, tf32=torch.get_float32_matmul_precision() != "highest")
        if known:
            return PeakRate(known * 1e12, f"data sheet of {name}, dense")
    rate = measured_rate(device, dtype)
    return PeakRate(rate, f"measured here, {str(dtype)[6:]} product", is_measured=True)


def automatic_precision(accelerator: str = "auto") -> str:
    """Return `bf16-mixed` where the device multiplies bfloat16 much faster, else `32-true`.

    A GPU says so itself; one that only emulates bfloat16 (before Ampere) does not. CPUs with AMX
    do; of others some do (AMD Zen 4: 2 to 3 times) and some do not (Intel Xeons whose AMX is hidden
    from a virtual machine), so that both products are measured there, 0.1 s each.

    Args:
        accelerator: Lightning's name of the device that is asked for.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if has_bf16 else "32-true"
    return "bf16-mixed" if cpu_has_fast_bf16() else "32-true"


def cpu_has_fast_bf16() -> bool:
    """Return whether this CPU multiplies bfloat16 much faster than float32."""
    if torch.cpu._is_amx_tile_supported():
        return True
    if not cpu_has_bf16_products():
        return False
    cpu = torch.device("cpu")
    return measured_rate(cpu, torch.bfloat16) >= FAST_BF16 * measured_rate(cpu, torch.float32)


def cpu_has_bf16_products() -> bool:
    """Return whether oneDNN has bfloat16 products for this CPU, fast or not."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def use_tensor_cores(precision: str) -> None:
    """Let CUDA round float32 products to TF32 in runs whose other products have 16 bits.

    PoNet's global pool is such a product: it stays in float32, with inputs of 10 bits where the
    projections beside it have 7. In float32 runs nothing is rounded.

    Args:
        precision: Lightning's name, such as `bf16-mixed`.
    """
    if torch.cuda.is_available() and operand_type(precision).itemsize == 2:
        torch.set_float32_matmul_precision("high")


def operand_type(precision: str) -> torch.dtype:
    """Return the dtype of the matrix products under one of Lightning's precisions."""
    return DTYPES.get(precision.partition("-")[0], torch.float32)


def known_tflops(name: str, dtype: torch.dtype, *, tf32: bool) -> float | None:
    """Return the data sheet's dense TFLOP/s of a GPU; None: not in the table.

    Args:
        name: As the driver gives it. A part of a GPU (MIG) is not the GPU.
        dtype: Of the operands.
        tf32: Whether float32 products may be rounded to TF32.
    """
    words = set(re.split(r"[^A-Z0-9]+", name.upper()))
    columns = {torch.bfloat16: 0, torch.float16: 0, torch.float32: 1 if tf32 else 2}
    if "MIG" in words or dtype not in columns:
        return None
    rows = (row for known, row in KNOWN_TFLOPS.items() if words.issuperset(known.split()))
    return next((row[columns[dtype]] for row in rows), None)


def corrected_rate(
    peak: PeakRate, reached: float, device: torch.device, precision: str
) -> PeakRate:
    """Return a peak rate that is not below what a run has reached.

    A CPU that was busy when its rate was measured looks slower than it is, and a run would seem to
    use more than all of it. So the rate is measured again (0.1 s) where a run passes it, and what
    the run reached counts as a measurement too. Rates of data sheets and users stand as they are.

    Args:
        peak: As it was found.
        reached: Operations per second of the run.
        device: The device of this rank.
        precision: Lightning's name.
    """
    if device.type != "cpu" or not peak.is_measured or reached <= peak.flops_per_s:
        return peak
    measured_rate.cache_clear()
    again = peak_rate(device, precision)
    return again._replace(flops_per_s=max(again.flops_per_s, reached))


@lru_cache(maxsize=8)
def measured_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of the fastest of some square matrix products.

    It draws from a generator of its own, so a run's random numbers are the same without it.
    """
    size, repeats = (8192, 10) if device.type == "cuda" else (1024, 1)
    wait = getattr(getattr(torch, device.type), "synchronize", lambda: None)
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.rand(size, size, generator=generator).to(device, dtype) for _ in range(2))
    left[:256] @ right  # starts libraries and threads
    best, begin = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - begin < MEASURING_S:
        wait()
        start = time.perf_counter()
        for _ in range(repeats):
            left @ right
        wait()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 * repeats / best


def memory_gib(device: torch.device) -> float:
    """Return the largest memory of tensors on a GPU so far, or a CPU process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**30
    return peak_resident() / 2**30  # without /proc only the height is known


def peak_resident() -> int:
    """Return the most bytes of main memory that this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class FetchClock(PassThroughProfiler):
    """Adds up the seconds in which training waited for its next batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._start = 0.0

    def start(self, action_name: str) -> None:
        """Start the clock at a fetch."""
        if action_name == FETCH:
            self._start = time.monotonic()

    def stop(self, action_name: str) -> None:
        """Stop it when the batch is there."""
        if action_name == FETCH:
            self.seconds += time.monotonic() - self._start
