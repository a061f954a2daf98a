"""Triton kernels compile for a GPU that is not there, and within its registers."""

import os
import re
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd

pytest.importorskip("triton")
import triton

from ponet import EncoderBatch, PoNetConfig
from ponet.encoders import build_encoder
from ponet.pooling import triton_mix

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled with the interpreter"
)


def compiled_for_a_gpu(kernel, constants, *, num_warps):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    constants = {name: value for name, value in constants.items() if name in names}
    types = dict.fromkeys(names, "i32") | dict.fromkeys(constants, "constexpr")
    types |= {name: "*bf16" for name in names if name.endswith("_ptr")}
    types |= {
        name: "*i32"
        for name in ("code_ptr", "tiles_ptr", "text_ptr", "hit_ptr", "ends_ptr")
        if name in names
    }
    types |= {
        name: "*fp32" for name in types if name.startswith(("piece", "cut", "global", "loss"))
    }
    types |= {"labels_ptr": "*i64"} if "labels_ptr" in names else {}
    aligned = [
        n
        for n in names
        if n.endswith("_ptr") or n in ("width", "row_len", "in_stride", "out_stride")
    ]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(kernel, types, constants, attributes)
    target = GPUTarget("cuda", 90, 32)
    return triton.compile(source, target=target, options={"num_warps": num_warps}).asm


PARTS_OF_ALL = {"HAS_GLOBAL": True, "SEGMENT": 1, "HAS_LOCAL": True, "HAS_GATE": True, "REACH": 1}


@pytest.mark.parametrize(
    "name",
    ["partial_max", "mix_forward", "mix_backward", "cut_backward", "combine_global", "loss_rows"],
)
def test_the_kernels_compile_for_a_gpu_without_having_one(name, tmp_path, monkeypatch):
    from ponet import loss_kernels
    from ponet.pooling import triton_cuts, triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {**PARTS_OF_ALL, "LINE": 16, "CHUNK": 2, "STEP": 4}
    constants |= {"BLOCK": 16, "IGNORED": -100, "IS_WANTED": True}
    kernel = next(
        getattr(m, name) for m in (loss_kernels, triton_cuts, triton_kernels) if hasattr(m, name)
    )
    asm = compiled_for_a_gpu(kernel, constants, num_warps=1)
    assert "st.global" in asm["ptx"]
    assert asm["cubin"]


@pytest.mark.parametrize(("name", "most"), [("mix_forward", 128), ("mix_backward", 255)])
def test_programs_keep_all_they_need_in_registers(name, most, tmp_path, monkeypatch):
    """Most registers of a thread; a multiprocessor has 65,536, for 8 warps of 255 or 16 of 128."""
    from ponet.pooling import triton_kernels

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip("this triton brings no cuobjdump")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    sizes = triton_mix.SIZES
    constants = {**PARTS_OF_ALL, "CHUNK": sizes.chunk, "LINE": sizes.line_bytes // 2}
    kernel = getattr(triton_kernels, name)
    asm = compiled_for_a_gpu(kernel, constants, num_warps=sizes.num_warps)
    (tmp_path / "kernel.cubin").write_bytes(asm["cubin"])
    command = [tool, "--dump-resource-usage", tmp_path / "kernel.cubin"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.search(rf"{key}:(\d+)", shown)[1]) for key in ("REG", "STACK"))
    assert (registers <= most, stack) == (True, 0), shown


def written_by_kernels(kernel_idx, constant_args_idx, kwargs, *_):
    """The arguments that a kernel writes to, judged by their names."""
    writes = ("out", "piece", "grad_tokens")
    if "out_ptr" not in kwargs and "segment_ptr" not in kwargs:  # combine_*
        writes = ("cut",)
    tensors = (name for name, value in kwargs.items() if isinstance(value, torch.Tensor))
    return [name for name in tensors if name.startswith(writes)]


@pytest.mark.parametrize("are_runs", [True, False])
def test_all_layers_with_kernels_are_captured_as_one_graph_forward_and_backward(
    are_runs, monkeypatch
):
    """Dynamo and AOTAutograd run as on a GPU; the kernels themselves are left out of the graph."""
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    monkeypatch.setattr("ponet.encoders.ponet.choose_kernels", lambda *_, **__: "triton")
    wrap = "torch._higher_order_ops.triton_kernel_wrap.get_mutated_tensors"
    monkeypatch.setattr(wrap, written_by_kernels)  # it would ask the driver
    launches = []

    def without_kernels(graph, _):
        nodes = [n for n in graph.graph.nodes if "triton_kernel_wrapper" in str(n.target)]
        launches.append(len(nodes))
        for node in nodes:
            node.target = lambda *, kwargs, tensors_to_clone, **_: {
                name: kwargs[name] for name in tensors_to_clone
            }
        graph.recompile()
        return graph.forward

    captured = []
    inner = aot_autograd(fw_compiler=without_kernels, bw_compiler=without_kernels)
    monkeypatch.setattr(
        torch,
        "compile",
        partial(torch.compile, backend=lambda g, i: captured.append(g) or inner(g, i)),
    )
    ids = torch.arange(24)[None] // 5 if are_runs else torch.arange(24)[None] % 5
    config = PoNetConfig(vocab_size=8, hidden_size=8, num_layers=3, num_heads=2, ffn_size=8,
                         max_positions=24)  # fmt: skip
    everywhere, nowhere = torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids)
    batch = EncoderBatch(
        input_ids=nowhere, mask=everywhere, token_type_ids=nowhere, segment_ids=ids,
        special_mask=~everywhere, segments_are_runs=are_runs,
    )  # fmt: skip
    encoder = build_encoder(config)
    encoder.compile_blocks()
    encoder(batch).sum().backward()
    assert len(captured) == 1
    forward, backward = launches
    assert forward >= 1 and backward >= 1
    assert encoder.prepare(batch).tiles is not None
