"""A bundle as one ONNX file with dynamic batch and length, compared with PyTorch in onnxruntime.

B batch, L tokens, D width. Invariant: a file is put in place only after onnxruntime has given
PyTorch's outputs for batches of several sizes, other than the one the graph was traced with.
"""

import copy
import importlib.util
import json
import logging
import math
import statistics
import timeit
import warnings
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ponet.batch import EncoderBatch
from ponet.config import FNetConfig, PoNetConfig
from ponet.encoders.backbone import TokenMixer
from ponet.heads import PretrainingModel, pool
from ponet.hub.huggingface import (
    FOREIGN_TOLERANCE,
    SpecialTokens,
    largest_difference,
    probe_batch,
    write_tokenizer,
)
from ponet.hub.modeling_ponet import make_batch
from ponet.weight_files import new_folder

GRAPH_NAME = "model.onnx"
OnnxHead = Literal["masked-lm", "encoder"]
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
"""The first version whose ScatterElements takes a maximum; PoNet's segments need it."""


class Comparison(NamedTuple):
    """One batch through onnxruntime and through PyTorch."""

    shape: tuple[int, ...]
    """(B, L)."""
    difference: float
    """Largest absolute difference of any output at real tokens."""
    times_ms: tuple[float, ...]
    """Median times of onnxruntime and of PyTorch (the model as it is used in Python), if taken."""


class OnnxModel(nn.Module):
    """What is traced: a pretraining model with plain tensors in and out.

    Args:
        model: For tracing, in the form that export_form returns.
        special_tokens: Ids that delimit texts.
        head: masked-lm: hidden states and logits; encoder: hidden states and pooled output, if it
            was trained.
        segment_input: Whether segment_ids are an input; otherwise each text between separators is
            a segment.
    """

    def __init__(
        self,
        model: PretrainingModel,
        special_tokens: SpecialTokens,
        *,
        head: OnnxHead = "masked-lm",
        segment_input: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.special_tokens = special_tokens
        self.head = head
        self.segment_input = segment_input

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        segment_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the outputs by their names; all inputs are int64 (B, L)."""
        separators = (self.special_tokens.cls_token_id, self.special_tokens.sep_token_id)
        batch = make_batch(input_ids, attention_mask, token_type_ids, segment_ids, separators)
        x_BLD = self.model.encoder(batch)
        outputs = {"last_hidden_state": x_BLD}
        if self.head == "masked-lm":
            outputs["logits"] = self.model.mlm_head(x_BLD, self.model.decoder_weight)
        elif self.model.pooler is not None:
            outputs["pooler_output"] = pool(self.model.pooler, x_BLD, batch)
        return outputs

    def inputs(self, batch: EncoderBatch) -> dict[str, Tensor]:
        """Return the graph's inputs for a batch."""
        values = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.mask.long(),
            "token_type_ids": batch.token_type_ids,
        }
        return values | ({"segment_ids": batch.segment_ids} if self.segment_input else {})


class FourierByProducts(TokenMixer):
    """FNet's transform as four matrix products, because graphs have no transform of both axes.

    With C and S the cosines and sines of 2 pi i j / n, the real part of the 2-D transform is
    C_L x C_D - S_L x S_D. The angle is taken of i j modulo n, which is exact in integers.
    """

    def prepare(self, batch: EncoderBatch) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (L, L) of the batch's length."""
        return self._waves(batch.input_ids.shape[1], batch.input_ids.device)

    def forward(self, x_BLD: Tensor, plan: tuple[Tensor, Tensor]) -> Tensor:
        """Return the (B, L, D) update."""
        cos_LL, sin_LL = plan
        cos_DD, sin_DD = self._waves(x_BLD.shape[2], x_BLD.device)
        return cos_LL @ (x_BLD @ cos_DD) - sin_LL @ (x_BLD @ sin_DD)

    @staticmethod
    def _waves(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        steps = torch.arange(size, device=device)
        size_1 = steps[-1:] + 1  # a tensor: the exporter has no remainder of a dynamic number
        angles = (steps[:, None] * steps[None]) % size_1 * (2 * math.pi) / size_1
        return torch.cos(angles), torch.sin(angles)


def export_form(model: PretrainingModel) -> PretrainingModel:
    """Return a copy with the same outputs and parameters, made of operations that ONNX has.

    PoNet's pools are computed by the reference kernels, FNet's transform by FourierByProducts.
    """
    config = model.config
    if isinstance(config, PoNetConfig):
        config = replace(config, kernels="reference")
    form = PretrainingModel(config, num_pair_classes=model.num_pair_classes)
    if isinstance(config, FNetConfig):
        for block in form.encoder.layers:
            block.mixer = FourierByProducts()
    form.load_state_dict(model.state_dict())
    return form.eval()


def export_onnx(
    model: PretrainingModel,
    folder: Path,
    *,
    special_tokens: SpecialTokens,
    tokenizer_path: Path | None,
    head: OnnxHead = "masked-lm",
    segment_input: bool = False,
    num_timed: int = 0,
) -> list[Comparison]:
    """Write the graph of a model and its tokenizer, compare them, and put them in place.

    Args:
        model: Any of our pretraining models.
        folder: Target; must not exist or be empty.
        special_tokens: Ids that delimit and pad.
        tokenizer_path: tokenizer.json, or None to write no tokenizer.
        head: As for OnnxModel.
        segment_input: As for OnnxModel.
        num_timed: Repetitions that times are taken of; 0 = none.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:  # said here, because it would end, after minutes, at an import
        raise ModuleNotFoundError(
            f"--format onnx needs {', '.join(missing)}, not installed here; "
            "pip install -e '.[onnx]'"
        )
    live = OnnxModel(model, special_tokens, head=head, segment_input=segment_input)
    facts = {"kind": model.config.kind, **asdict(special_tokens)}
    facts["max_positions"] = model.config.max_positions
    with new_folder(folder, replaces=False) as staging:
        write_onnx(live, staging / GRAPH_NAME)
        if tokenizer_path is not None:
            write_tokenizer(tokenizer_path, staging, max_len=model.config.max_positions)
        text = json.dumps(facts, indent=2) + "\n"
        (staging / "graph.json").write_text(text, encoding="utf-8")
        return compare_onnx(live, staging / GRAPH_NAME, num_timed=num_timed)


def write_onnx(live: OnnxModel, path: Path) -> None:
    """Write the graph of a model with its weights, not yet compared with anything."""
    form = copy.deepcopy(live)
    form.model = export_form(live.model)
    inputs = form.inputs(probe_batch(live.model.config, live.special_tokens, shape=(2, 24)))
    rows = torch.export.Dim("batch", min=1)
    tokens = torch.export.Dim("tokens", min=2, max=live.model.config.max_positions)
    with ExitStack() as stack:  # without notes on torchvision and on names of axes
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.callback(logging.disable, logging.NOTSET)
        logging.disable(logging.WARNING)
        program = torch.onnx.export(
            form.eval(),
            (),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=list(form(**inputs)),
            dynamic_shapes={name: {0: rows, 1: tokens} for name in inputs},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path))


def compare_onnx(live: OnnxModel, path: Path, *, num_timed: int = 0) -> list[Comparison]:
    """Run a written graph and the model on batches of several sizes.

    Args:
        live: What the graph was made of.
        path: The graph.
        num_timed: Repetitions that times are taken of; 0 = none. Both use as many threads as
            torch.get_num_threads() says.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    live.eval()
    config = live.model.config
    shapes = ((1, 7), (3, 40), (2, config.max_positions))
    batches = [probe_batch(config, live.special_tokens, shape=shape) for shape in shapes]
    return [_compare(session, live, batch, num_timed) for batch in batches]


@torch.inference_mode()
def _compare(session: Any, live: OnnxModel, batch: EncoderBatch, num_timed: int) -> Comparison:
    inputs = live.inputs(batch)
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    ours, found = live(**inputs), session.run(None, arrays)
    theirs = {name: torch.from_numpy(array) for name, array in zip(ours, found, strict=True)}
    difference = largest_difference(ours, theirs, batch, tolerance=FOREIGN_TOLERANCE)
    calls = (lambda: session.run(None, arrays), lambda: live(**inputs)) if num_timed else ()
    times_ms = tuple(
        1000 * statistics.median(timeit.repeat(call, number=1, repeat=num_timed)) for call in calls
    )
    return Comparison(tuple(batch.input_ids.shape), difference, times_ms)
