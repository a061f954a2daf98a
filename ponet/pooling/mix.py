"""The one entrance to the fusion of the pools, whichever kernels compute it.

B batch, L tokens, D width.
"""

import importlib
import importlib.util
import os
import shutil
import sysconfig
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from ponet.pooling import eager
from ponet.pooling.plan import Kernels, PoolInputs, PoolPlan, mixed_dtype
from ponet.pooling.reference import mix_reference

KernelName = Literal["auto", "reference", "eager", "triton"]
_KERNELS: dict[str, Kernels] = {"eager": eager}
_LACKS: dict[str, str] = {}
NOT_INSTALLED = "triton is not installed"
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class _Mix(torch.autograd.Function):
    """Connects a set of kernels to autograd; keeps the inputs and what the kernels saved."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, plan: PoolPlan, window: int, *inputs: Any) -> Tensor:
        pool_inputs = PoolInputs(*inputs)
        mixed_BLD, saved = kernels.forward(pool_inputs, plan, window)
        ctx.save_for_backward(*pool_inputs, *saved)
        ctx.kernels, ctx.plan, ctx.window = kernels, plan, window
        return mixed_BLD

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors  # to be read once: recomputation allows no second time
        inputs, saved = PoolInputs(*tensors[:4]), tensors[4:]
        grad_BLD = grad_outputs[0].contiguous()
        grads = ctx.kernels.backward(grad_BLD, inputs, saved, ctx.plan, ctx.window)
        return (None, None, None, *grads)


def mix(inputs: PoolInputs, *, plan: PoolPlan, window: int, kernels: KernelName = "auto") -> Tensor:
    """Return (global + segment maximum) * gate + local maximum, 0 at padding.

    Args:
        inputs: Projected values, finite, those per token of one dtype; parts that are None are
            left out. At least one is a pool, and a gate has a global or segment pool to multiply.
        plan: Of the batch.
        window: Odd width of the local windows in tokens.
        kernels: Which code computes it; the result is the same up to rounding. See
            PoNetConfig.kernels.

    Returns:
        (B, L, D), in the dtype of the values per token.

    Raises:
        ValueError: If the kernels cannot run here.

    Source:
        PoNet (arXiv 2110.02442), pooling fusion. The product tells apart tokens that share the
        same pools.
    """
    name = choose_kernels(kernels, device=plan.mask_BL1.device, dtype=mixed_dtype(inputs))
    if name == "reference":
        return mix_reference(inputs, plan, window)
    inputs = PoolInputs(*(None if t is None else t.contiguous() for t in inputs))
    mixed_BLD: Tensor = _Mix.apply(  # type: ignore[no-untyped-call]
        kernel_set(name), plan, window, *inputs
    )
    return mixed_BLD


def choose_kernels(
    kernels: KernelName, *, device: torch.device, dtype: torch.dtype
) -> Literal["reference", "eager", "triton"]:
    """Return which kernels run.

    "auto" is Triton on CUDA where it can be had, else eager. What is compiled computes the
    reference instead of eager: the compiler fuses it as well, and eager cannot be compiled.

    Args:
        kernels: What was asked for.
        device: Of the inputs.
        dtype: Of the values per token.

    Raises:
        ValueError: If the name is unknown, or Triton was asked for where it cannot run.
    """
    if kernels not in get_args(KernelName):
        allowed = ", ".join(get_args(KernelName))
        raise ValueError(f"kernels={kernels!r} given; allowed are {allowed}")
    fits = device.type == "cuda" and dtype in TRITON_DTYPES
    if kernels == "auto" and fits and not triton_lacks():
        return "triton"
    if kernels != "triton":
        is_plain = kernels == "reference" or torch.compiler.is_compiling()
        return "reference" if is_plain else "eager"
    if lack := triton_lacks():
        raise ValueError(
            f"kernels='triton' given, but {lack}: install what is missing, or give kernels='auto'"
        )
    if dtype not in TRITON_DTYPES:
        raise ValueError(
            f"kernels='triton' given for {dtype}; allowed are float32, bfloat16 and float16: "
            "convert the model, or give kernels='auto'"
        )
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"kernels='triton' given on device {device.type!r}; Triton needs CUDA: give "
            "kernels='auto', or, to test without a GPU, set TRITON_INTERPRET=1 before starting"
        )
    return "triton"


def triton_lacks() -> str:
    """Return what triton lacks to run here, in words; empty: nothing. Does not import it.

    It compiles a C file around each of its first kernels, so it needs more than its package.
    """
    if "triton" not in _LACKS:  # looked up before layers are compiled, as in kernel_set
        _LACKS["triton"] = lack = _look_for_triton()
        if lack not in ("", NOT_INSTALLED):
            warnings.warn(
                f"Triton's kernels are not used: {lack}. PyTorch's operators compute the same, "
                "but slower; set CC or install what is missing",
                stacklevel=2,
            )
    return _LACKS["triton"]


def _look_for_triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return NOT_INSTALLED
    if os.environ.get("TRITON_INTERPRET") == "1" or os.name == "nt":  # builds nothing; has its own
        return ""
    if not ("CC" in os.environ or shutil.which("gcc") or shutil.which("clang")):
        return "it needs a C compiler, and there is neither gcc nor clang nor the variable CC"
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    headers = Path(sysconfig.get_path("include", scheme))
    if not (headers / "Python.h").is_file():
        return f"it needs Python's headers, and there is no Python.h in {headers}"
    return ""


def kernel_set(name: Literal["eager", "triton"]) -> Kernels:
    """Return the kernels of a name; Triton is imported only when it is asked for.

    By its name, not by a statement: copies of this file stand beside exported weights, without it.
    torch.compile cannot trace that, so a batch is prepared before its layers are compiled.
    """
    if name not in _KERNELS:
        _KERNELS[name] = cast(Kernels, importlib.import_module("ponet.pooling.triton_mix"))
    return _KERNELS[name]


def with_tiles(plan: PoolPlan) -> PoolPlan:
    """Return the plan with what the Triton kernels need to know of it."""
    triton_mix: Any = kernel_set("triton")
    return replace(plan, tiles=triton_mix.plan_tiles(plan, triton_mix.SIZES))
