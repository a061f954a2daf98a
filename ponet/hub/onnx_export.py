"""A bundle as one ONNX file with dynamic batch and length, compared with PyTorch in onnxruntime.

B batch, L tokens, D width. Invariant: a file is put in place only after onnxruntime has given
PyTorch's outputs for batches of several sizes, other than the one the graph was traced with.
"""

import importlib.util
import logging
import math
import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ponet.batch import EncoderBatch
from ponet.config import FNetConfig, PoNetConfig
from ponet.encoders.backbone import TokenMixer
from ponet.heads import PretrainingModel
from ponet.hub.special_tokens import SpecialTokens, probe_batch
from ponet.segments import segments_from_separators

OnnxHead = Literal["masked-lm", "encoder"]
TOLERANCE = 1e-4
"""Largest difference of an output from PyTorch's, per unit of the largest of them."""
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
"""The first version whose ScatterElements takes a maximum; PoNet's segments need it."""


@dataclass(frozen=True, kw_only=True)
class OnnxOptions:
    """What the graph takes and gives."""

    head: OnnxHead = "masked-lm"
    """masked-lm: hidden states and logits; encoder: hidden states and pooled output, if trained."""
    segment_input: bool = False
    """Whether segment_ids are an input; otherwise each text between separators is a segment."""

    def __post_init__(self) -> None:
        """Check the head."""
        if self.head not in get_args(OnnxHead):
            raise ValueError(
                f"--head {self.head!r} given; allowed are {', '.join(get_args(OnnxHead))}"
            )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One batch through onnxruntime and through PyTorch."""

    shape: tuple[int, int]
    """(B, L)."""
    difference: float
    """Largest absolute difference of any output at real tokens."""
    onnx_ms: float
    """Median time of onnxruntime in milliseconds; NaN where no time was taken."""
    torch_ms: float
    """Median time of PyTorch (the model as it is used in Python) in milliseconds; NaN likewise."""


class OnnxModel(nn.Module):
    """What is traced: a pretraining model with plain tensors in and out.

    Args:
        model: For tracing, in the form that export_form returns.
        special_tokens: Ids that delimit texts.
        options: Inputs and outputs.
    """

    def __init__(
        self, model: PretrainingModel, special_tokens: SpecialTokens, options: OnnxOptions
    ) -> None:
        """Keep the model."""
        super().__init__()
        self.model = model
        self.separators = (special_tokens.cls_token_id, special_tokens.sep_token_id)
        self.options = options

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        segment_ids: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the outputs in the order of output_names; all inputs are int64 (B, L)."""
        cls_id, sep_id = self.separators
        special_BL = (input_ids == cls_id) | (input_ids == sep_id)
        batch = EncoderBatch(
            input_ids=input_ids,
            mask=attention_mask.bool(),
            token_type_ids=token_type_ids,
            segment_ids=segments_from_separators(special_BL)
            if segment_ids is None
            else segment_ids,
            special_mask=special_BL,
        )
        x_BLD = self.model.encoder(batch)
        if self.options.head == "masked-lm":
            return x_BLD, self.model.mlm_head(x_BLD, self.model.decoder_weight)
        return (x_BLD,) if self.model.pooler is None else (x_BLD, self.model.pooler(x_BLD))

    @property
    def output_names(self) -> list[str]:
        """Names of what forward returns."""
        if self.options.head == "masked-lm":
            return ["last_hidden_state", "logits"]
        return ["last_hidden_state", "pooler_output"][: 1 if self.model.pooler is None else 2]

    def inputs(self, batch: EncoderBatch) -> dict[str, Tensor]:
        """Return the graph's inputs for a batch."""
        values = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.mask.long(),
            "token_type_ids": batch.token_type_ids,
        }
        return values | ({"segment_ids": batch.segment_ids} if self.options.segment_input else {})


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


def _require_packages() -> None:
    """Refuse to start what would end, after minutes, at an import."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"--format onnx needs {', '.join(missing)}, not installed here; "
            "pip install -e '.[onnx]'"
        )


def write_onnx(
    model: PretrainingModel,
    path: Path,
    *,
    special_tokens: SpecialTokens,
    options: OnnxOptions,
) -> None:
    """Write the graph of a model with its weights, not yet compared with anything.

    Args:
        model: Any of our pretraining models.
        path: File to write.
        special_tokens: Ids that delimit texts.
        options: Inputs and outputs.

    Raises:
        ModuleNotFoundError: If the packages of the extra onnx are not installed.
    """
    _require_packages()
    wrapped = OnnxModel(export_form(model), special_tokens, options).eval()
    max_len = model.config.max_positions
    inputs = wrapped.inputs(probe_batch(model.config, special_tokens, shape=(2, 24)))
    rows = torch.export.Dim("batch", min=1)
    tokens = torch.export.Dim("tokens", min=2, max=max_len)
    with _quiet():
        program = torch.onnx.export(
            wrapped,
            (),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=wrapped.output_names,
            dynamic_shapes={name: {0: rows, 1: tokens} for name in inputs},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes on torchvision and on names of axes away; errors still come."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def compare_onnx(
    model: PretrainingModel,
    path: Path,
    *,
    special_tokens: SpecialTokens,
    options: OnnxOptions,
    num_timed: int = 0,
) -> list[Comparison]:
    """Run a written graph and the model on batches of several sizes.

    Args:
        model: What the graph was made of.
        path: The graph.
        special_tokens: Ids that delimit texts.
        options: Inputs and outputs of the graph.
        num_timed: Repetitions that times are taken of; 0 = none. Both use as many threads as
            torch.get_num_threads() says.

    Raises:
        ValueError: If an output differs by more than rounding.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    live = OnnxModel(model.eval(), special_tokens, options)
    shapes = ((1, 7), (3, 40), (2, model.config.max_positions))
    batches = [probe_batch(model.config, special_tokens, shape=shape) for shape in shapes]
    return [_compare(session, live, batch, num_timed) for batch in batches]


def _compare(session: Any, live: OnnxModel, batch: EncoderBatch, num_timed: int) -> Comparison:
    inputs = live.inputs(batch)
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    with torch.inference_mode():
        expected = live(**inputs)
    outputs = [torch.from_numpy(array) for array in session.run(None, arrays)]
    largest = 0.0
    for name, ours, theirs in zip(live.output_names, expected, outputs, strict=True):
        at_real = batch.mask if ours.dim() == 3 else slice(None)
        difference = float((ours[at_real] - theirs[at_real]).abs().max())
        scale = max(1.0, float(ours.abs().max()))
        if not difference <= TOLERANCE * scale:
            raise ValueError(
                f"the graph's {name} differs by {difference:.2e} from PyTorch's for "
                f"{tuple(batch.input_ids.shape)} tokens; at most {TOLERANCE * scale:.0e} is "
                "rounding, so nothing was written"
            )
        largest = max(largest, difference)
    with torch.inference_mode():
        onnx_ms = _median_ms(lambda: session.run(None, arrays), num_timed)
        torch_ms = _median_ms(lambda: live(**inputs), num_timed)
    shape = (batch.input_ids.shape[0], batch.input_ids.shape[1])
    return Comparison(shape=shape, difference=largest, onnx_ms=onnx_ms, torch_ms=torch_ms)


def _median_ms(call: Any, num_timed: int) -> float:
    times = []
    for _ in range(num_timed):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times) if times else math.nan
