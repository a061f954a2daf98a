"""A model as one ONNX file with dynamic batch and length, compared with PyTorch in onnxruntime.

B batch, L tokens, D width, W distinct words. Invariant: a file is put in place only after
onnxruntime has given PyTorch's outputs for batches of several sizes, other than the one the graph
was traced with.
"""

import copy
import importlib.util
import logging
import math
import statistics
import timeit
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_prep.files import write_json
from ponet.batch import EncoderBatch
from ponet.bundle import Model
from ponet.encoders.backbone import TokenMixer
from ponet.encoders.fnet import FNetMixer
from ponet.encoders.hashed import HashedWords
from ponet.encoders.ponet import PoNetMixer
from ponet.heads import PretrainingModel
from ponet.hub.bits import named_outputs
from ponet.hub.huggingface import (
    FOREIGN_TOLERANCE,
    SpecialTokens,
    largest_difference,
    probe_batch,
    write_tokenizer,
)
from ponet.hub.modeling_ponet import make_batch
from ponet.hub.onnx_bits import pack_onnx
from ponet.poolers import pool
from ponet.weight_files import new_folder

GRAPH_NAME = "model.onnx"
OnnxHead = Literal["masked-lm", "encoder"]
ModelT = TypeVar("ModelT", bound=nn.Module)
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
    """What is traced: a model with plain tensors in and out.

    Args:
        model: For tracing, in the form that export_form returns.
        special_tokens: Ids that delimit texts; hashed words have none.
        head: Of a pretraining model: masked-lm: hidden states and logits; encoder: hidden states
            and pooled output, if it was trained.
        segment_input: Whether segment_ids are an input; otherwise each text between separators is
            a segment.
    """

    def __init__(
        self,
        model: Model,
        special_tokens: SpecialTokens,
        *,
        head: OnnxHead = "masked-lm",
        segment_input: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.segment_input = segment_input
        self.special_tokens = special_tokens
        self.is_hashed = model.encoder.config.projection is not None
        ids = (special_tokens.cls_token_id, special_tokens.sep_token_id)
        self.separators = () if self.is_hashed else ids

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        word_features: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the outputs by their names.

        Args:
            input_ids: int64 (B, L); numbers of rows of word_features where there are some.
            attention_mask: int64 (B, L).
            token_type_ids: int64 (B, L).
            segment_ids: int64 (B, L).
            word_features: Of the W words, for encoders of hashed words.
        """
        batch = make_batch(input_ids, attention_mask, token_type_ids, segment_ids, self.separators)
        if word_features is not None:
            batch = replace(batch, word_features=word_features)
        if isinstance(self.model, PretrainingModel):
            return self._pretraining_outputs(self.model, batch)
        return named_outputs(self.model(batch))

    def _pretraining_outputs(
        self, model: PretrainingModel, batch: EncoderBatch
    ) -> dict[str, Tensor]:
        x_BLD = model.encoder(batch)
        outputs = {"last_hidden_state": x_BLD}
        if self.head == "masked-lm":
            outputs["logits"] = model.mlm_head(x_BLD, model.decoder_weight)
        elif model.pooler is not None:
            outputs["pooler_output"] = pool(model.pooler, x_BLD, batch)
        return outputs

    def inputs(self, batch: EncoderBatch) -> dict[str, Tensor]:
        """Return the graph's inputs for a batch."""
        values = {"input_ids": batch.input_ids, "attention_mask": batch.mask.long()}
        if batch.word_features is not None:
            values["word_features"] = batch.word_features
        else:
            values["token_type_ids"] = batch.token_type_ids
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


def gathered_rows(lists_WN: Tensor, table_MK: Tensor) -> Tensor:
    """Return what sum_rows of the hashed words returns, in operations that ONNX has."""
    return F.pad(F.embedding(lists_WN, table_MK).sum(1), (0, 0, 1, 0))


def export_form(model: ModelT) -> ModelT:
    """Return a copy with the same outputs and parameters, made of operations that ONNX has.

    PoNet's pools are computed by the reference kernels, FNet's transform by FourierByProducts,
    hashed words by gathered_rows.
    """
    form = copy.deepcopy(model)
    for module in form.modules():
        if isinstance(module, PoNetMixer):
            module.config = replace(module.config, kernels="reference")
        elif isinstance(module, HashedWords):
            module.sum_rows = gathered_rows
        elif isinstance(getattr(module, "mixer", None), FNetMixer):
            module.mixer = FourierByProducts()
    return form.eval()


def export_onnx(
    live: OnnxModel,
    folder: Path,
    *,
    tokenizer_path: Path | None,
    num_timed: int = 0,
    facts: Mapping[str, Any] | None = None,
    is_packed: bool = False,
) -> list[Comparison]:
    """Write the graph of a model and its tokenizer, compare them, and put them in place.

    Args:
        live: Any of our models; with is_packed one whose weights 8 bits can say.
        folder: Target; must not exist or be empty.
        tokenizer_path: tokenizer.json, or None to write no tokenizer.
        num_timed: Repetitions that times are taken of; 0 = none.
        facts: What graph.json says besides, such as the labels of the outputs.
        is_packed: Whether matrices are written in 8 bits.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:  # said here, because it would end, after minutes, at an import
        raise ModuleNotFoundError(
            f"--format onnx needs {', '.join(missing)}, not installed here; "
            "pip install -e '.[onnx]'"
        )
    config = live.model.encoder.config
    said = {"kind": config.kind, **asdict(live.special_tokens)}
    said["max_positions"] = config.max_positions
    if config.projection is not None:
        said["projection"] = asdict(config.projection)
    with new_folder(folder, replaces=False) as staging:
        write_onnx(live, staging / GRAPH_NAME)
        if is_packed:
            pack_onnx(staging / GRAPH_NAME)
        if tokenizer_path is not None:
            words = config.projection is not None  # what its longest text is counted in
            longest = config.max_positions if words else (facts or {}).get("max_len")
            write_tokenizer(tokenizer_path, staging, max_len=longest or config.max_positions)
        write_json(staging / "graph.json", {**said, **(facts or {})})
        return compare_onnx(live, staging / GRAPH_NAME, num_timed=num_timed)


def write_onnx(live: OnnxModel, path: Path) -> None:
    """Write the graph of a model with its weights, not yet compared with anything.

    Raises:
        ValueError: If there are too few positions for a text, or PyTorch lacks an operation.
    """
    form = copy.deepcopy(live)
    form.model = export_form(live.model)
    config = live.model.encoder.config
    inputs = form.inputs(probe_batch(config, live.special_tokens, shape=(2, 24)))
    sizes: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if not config.fixed_places:
        longest = config.max_positions if config.use_positions else None
        if longest is not None and longest < 3:
            raise ValueError(
                f"the encoder has {longest} positions; a graph of any length needs 3, for [CLS], a "
                "token and [SEP]: call encoder.extend_positions first"
            )
        sizes[1] = torch.export.Dim("tokens", min=2, max=longest)
    shapes = dict.fromkeys(inputs, sizes)
    if live.is_hashed:
        shapes["word_features"] = {0: torch.export.Dim("words", min=1)}
    with ExitStack() as stack:  # without notes on torchvision and on names of axes
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.callback(logging.disable, logging.NOTSET)
        logging.disable(logging.WARNING)
        stack.enter_context(_in_one_line(config.kind))
        program = torch.onnx.export(
            form.eval(),
            (),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=list(form(**inputs)),
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path))


@contextmanager
def _in_one_line(kind: str) -> Iterator[None]:
    """Say what the exporter says in pages of an operation that it lacks."""
    try:
        yield
    except torch.onnx.OnnxExporterError as error:
        found = f"PyTorch {torch.__version__} makes no graph of an encoder of the kind {kind}"
        raise ValueError(f"{found}; export it with --format bits8") from error


def open_session(path: Path, *, threads: int) -> Any:
    """Return a graph that is ready to run on the CPU."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def run_session(session: Any, inputs: Mapping[str, Tensor]) -> list[Any]:
    """Return the outputs of a graph as arrays."""
    found: list[Any] = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return found


def compare_onnx(live: OnnxModel, path: Path, *, num_timed: int = 0) -> list[Comparison]:
    """Run a written graph and the model on batches of several sizes.

    Args:
        live: What the graph was made of.
        path: The graph.
        num_timed: Repetitions that times are taken of; 0 = none. Both use as many threads as
            torch.get_num_threads() says.
    """
    session = open_session(path, threads=torch.get_num_threads())
    live.eval()
    config = live.model.encoder.config
    shapes = ((1, 7), (3, 40), (2, config.max_positions))
    batches = [probe_batch(config, live.special_tokens, shape=shape) for shape in shapes]
    return [_compare(session, live, batch, num_timed) for batch in batches]


@torch.inference_mode()
def _compare(session: Any, live: OnnxModel, batch: EncoderBatch, num_timed: int) -> Comparison:
    inputs = live.inputs(batch)
    ours, found = live(**inputs), run_session(session, inputs)
    theirs = {name: torch.from_numpy(array) for name, array in zip(ours, found, strict=True)}
    difference = largest_difference(ours, theirs, batch, tolerance=FOREIGN_TOLERANCE)
    calls = (lambda: run_session(session, inputs), lambda: live(**inputs)) if num_timed else ()
    times_ms = tuple(
        1000 * statistics.median(timeit.repeat(call, number=1, repeat=num_timed)) for call in calls
    )
    return Comparison(tuple(batch.input_ids.shape), difference, times_ms)
