"""A graph with its matrices in 8 bits: a quarter of the file, the same graph otherwise."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ponet.quantization import is_packable, to_int8


def pack_onnx(path: Path) -> None:
    """Write every matrix of a graph as int8 and scales, which the graph multiplies first.

    onnxruntime does that once, when it loads the graph, so that a call takes as long as without.
    Products in int8 are no faster for a single utterance: their inputs would have to be rounded
    in every call.

    Args:
        path: A graph with its weights in one file; replaced.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph = onnx.load(path)
    first: list[onnx.NodeProto] = []
    packed: list[onnx.TensorProto] = []
    for tensor in graph.graph.initializer:
        weight = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
        if not is_packable(weight):
            packed.append(tensor)
            continue
        names = [f"{tensor.name}.{part}" for part in ("int8", "scale", "whole")]
        found = zip(names, numbers_and_scales(weight), strict=False)
        packed += [numpy_helper.from_array(part.numpy(), name) for name, part in found]
        first.append(helper.make_node("Cast", names[:1], names[2:], to=onnx.TensorProto.FLOAT))
        first.append(helper.make_node("Mul", [names[2], names[1]], [tensor.name]))
    nodes = [*first, *graph.graph.node]
    for part in (*nodes, *graph.graph.value_info):
        del part.metadata_props[:]  # where each came from in Python, half of a small file
    for field, values in ((graph.graph.initializer, packed), (graph.graph.node, nodes)):
        del field[:]
        field.extend(values)
    onnx.checker.check_model(graph)
    onnx.save(graph, path)


def numbers_and_scales(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `to_int8` gives for a tensor of a graph, whatever shape it was folded to.

    The exporter stores some matrices cut into heads: PoNet's keys (H * K, D) as (H, K, D), where
    they are small. The scales that such a matrix was rounded by are those of its rows or columns;
    any others would round it a second time.

    Args:
        weight: Of two axes or more.
    """
    numbers, scale = to_int8(weight)
    if weight.dim() < 3:
        return numbers, scale
    of_rows, row_scale = to_int8(weight.flatten(0, -2))
    of_rows = of_rows.view(weight.shape)
    if len(row_scale) > 1:  # one for each row; those of columns spread as they are
        row_scale = row_scale.view(*weight.shape[:-1], 1)
    forms = [(numbers, scale), (of_rows, row_scale)]
    return min(forms, key=lambda form: float((form[0] * form[1] - weight).square().sum()))
