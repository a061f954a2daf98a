"""What the encoder benchmarks hold against each other: one encoder, one way to compute it.

B batch, L tokens, D width. Every rival gets the same tokens, all of them real, in sentences of 25
tokens; dropout is 0, with which BERT has a fused attention on every device, and no rival is given a
mask it does not need. The parts:

mixer: what replaces attention, without the output projection that all but FNet have behind it
layer: mixer, output projection, feed-forward, both norms
model: embeddings and all layers of the preset
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from _official import official_encoder
from torch import Tensor, nn

from ponet import BertConfig, EncoderBatch, EncoderConfig, FNetConfig, PoNetConfig
from ponet.encoders import Encoder, build_encoder

Part = Literal["mixer", "layer", "model"]
Mode = Literal["training", "inference"]
DTYPES = {"32": torch.float32, "bf16": torch.bfloat16}
SENTENCE = 25
CONFIGS: dict[str, type[EncoderConfig]] = {
    "ponet": PoNetConfig,
    "official": PoNetConfig,
    "bert": BertConfig,
    "fnet": FNetConfig,
}


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One encoder and how it is computed."""

    kind: Literal["ponet", "official", "bert", "fnet"]
    """official: PoNet in the arrangement of the released code."""
    kernels: str = "auto"
    """PoNet's kernel set."""
    compile_mode: str = ""
    """Mode of torch.compile; empty: not compiled."""

    @property
    def label(self) -> str:
        """The name in tables."""
        names = {"official": "official PoNet", "bert": "BERT", "fnet": "FNet"}
        name = names.get(self.kind, f"PoNet {self.kernels}")
        return f"{name}, compiled" if self.compile_mode else name


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all rivals of one interleaved measurement have in common."""

    part: Part
    mode: Mode
    size: str
    """base, small or nano."""
    precision: str
    """32 or bf16 (autocast)."""
    device: str
    """cpu or cuda."""


def rivals_on(device: str, *, compile_mode: str) -> list[Rival]:
    """Return every way to compute the encoders; compiled ones only if a mode is given."""
    official = Rival(kind="official")
    plain = [Rival(kind="ponet", kernels=name) for name in ("reference", "eager")]
    others = [Rival(kind="bert"), Rival(kind="fnet")]
    if device == "cuda":
        plain.append(Rival(kind="ponet", kernels="triton"))
    found = [official, *plain, *others]
    if compile_mode:
        # The released arrangement does not compile (an in-place fill of a transposed view).
        found += [
            Rival(kind=rival.kind, kernels=rival.kernels, compile_mode=compile_mode)
            for rival in (plain[-1], *others)
        ]
    return found


def ours(rivals: list[Rival]) -> Rival:
    """Return the PoNet that a user gets: the last kernel set, compiled if any is."""
    return [rival for rival in rivals if rival.kind == "ponet"][-1]


def make_batch(num_texts: int, num_tokens: int, *, vocab_size: int, device: str) -> EncoderBatch:
    """Return texts without padding: a special token at both ends, sentences of 25 tokens."""
    shape = (num_texts, num_tokens)
    place_BL = torch.arange(num_tokens).expand(shape)
    ends_BL = (place_BL == 0) | (place_BL == num_tokens - 1)
    return EncoderBatch(
        input_ids=torch.randint(5, vocab_size, shape),
        mask=torch.ones(shape, dtype=torch.bool),
        token_type_ids=torch.zeros(shape, dtype=torch.int64),
        segment_ids=torch.where(ends_BL, place_BL, 1 + place_BL // SENTENCE),
        special_mask=ends_BL,
        segments_are_runs=True,
        has_padding=False,
    ).to(device)


def make_encoder(
    rival: Rival, size: str, *, num_layers: int | None = None, **overrides: Any
) -> Encoder:
    """Return the rival's encoder in a preset's size, without dropout.

    Args:
        rival: Which encoder, and how it is computed.
        size: base, small or nano.
        num_layers: Instead of the preset's.
        **overrides: Fields of the configuration that replace the preset's.
    """
    options: dict[str, Any] = {"dropout_prob": 0.0, **overrides}
    if num_layers is not None:
        options["num_layers"] = num_layers
    if rival.kind == "bert":
        options["attention_dropout_prob"] = 0.0
    if rival.kind == "ponet":
        options["kernels"] = rival.kernels
    config = CONFIGS[rival.kind].preset(size, **options)  # type: ignore[arg-type]
    if rival.kind == "official":
        assert isinstance(config, PoNetConfig)
        return official_encoder(config)
    return build_encoder(config)


def compile_in_place(module: nn.Module, mode: str) -> None:
    """Compile for static shapes; a silent return to eager after too many shapes is an error."""
    torch._dynamo.config.recompile_limit = 64  # type: ignore[attr-defined]
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # type: ignore[attr-defined]
    module.compile(dynamic=False, mode=mode)


class Subject:
    """One rival in one setting: weights, inputs of every length, and the steps on them."""

    def __init__(self, rival: Rival, setting: Setting, shapes: list[tuple[int, int]]) -> None:
        """Build everything.

        Args:
            rival: Which encoder, and how it is computed.
            setting: What is measured.
            shapes: (texts, tokens) of each length.
        """
        torch.manual_seed(1)
        self.setting, self.rival = setting, rival
        whole = setting.part == "model"
        sizes: dict[str, Any] = {"max_positions": max(tokens for _, tokens in shapes)}
        if not whole:
            sizes |= {"vocab_size": 64, "num_layers": 1}
        with torch.device(setting.device):
            self.encoder = make_encoder(rival, setting.size, **sizes)
        self.encoder.train(setting.mode == "training")
        self.module = self._part()
        if rival.compile_mode:
            compile_in_place(self.module, rival.compile_mode)
        vocab_size, width = self.encoder.config.vocab_size, self.encoder.config.hidden_size
        self.batches = {
            tokens: make_batch(texts, tokens, vocab_size=vocab_size, device=setting.device)
            for texts, tokens in shapes
        }
        self.plans = {tokens: self.encoder.prepare(batch) for tokens, batch in self.batches.items()}
        # One input for all lengths: every step has the same number of tokens, or fewer.
        most = max(texts * tokens for texts, tokens in shapes)
        self.hidden_ND = torch.randn(most, width, device=setting.device)
        self.gradient_ND = torch.randn(most, width, device=setting.device)

    def _part(self) -> nn.Module:
        if self.setting.part == "model":
            return self.encoder
        block = self.encoder.layers[0]
        if self.setting.part == "layer":
            return block
        mixer = block.mixer
        assert isinstance(mixer, nn.Module)
        if hasattr(mixer, "output"):
            mixer.output = nn.Identity()
        return mixer

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.setting.precision == "32":
            return nullcontext()
        return torch.autocast(self.setting.device, DTYPES[self.setting.precision])

    def _of_length(self, values_ND: Tensor, num_tokens: int) -> Tensor:
        shape = self.batches[num_tokens].mask.shape
        return values_ND[: shape.numel()].view(*shape, -1)

    def step(
        self, num_tokens: int, *, depth: int = 1, keep_gradients: bool = False
    ) -> Callable[[], None]:
        """Return a function that does forward and, in training, backward at this length.

        Args:
            num_tokens: One of the lengths given.
            depth: How often the mixer or layer is applied, one after the other.
            keep_gradients: Add to the weights' gradients, as while accumulating; otherwise they are
                dropped after the step, as an optimiser's zero_grad does.
        """
        x_BLD = self._of_length(self.hidden_ND, num_tokens)
        gradient_BLD = self._of_length(self.gradient_ND, num_tokens)
        batch, plan = self.batches[num_tokens], self.plans[num_tokens]

        def output(x_BLD: Tensor) -> Tensor:
            if self.rival.compile_mode:
                torch.compiler.cudagraph_mark_step_begin()
            if self.setting.part == "model":
                return self.module(batch)
            for _ in range(depth):
                x_BLD = self.module(x_BLD, plan)
            return x_BLD

        def forward() -> None:
            with torch.inference_mode(), self._autocast():
                output(x_BLD)

        def forward_and_backward() -> None:
            leaf_BLD = x_BLD.detach().requires_grad_()
            with self._autocast():
                y_BLD = output(leaf_BLD)
            y_BLD.backward(gradient_BLD.to(y_BLD.dtype))
            if not keep_gradients:
                self.encoder.zero_grad(set_to_none=True)

        return forward_and_backward if self.setting.mode == "training" else forward
