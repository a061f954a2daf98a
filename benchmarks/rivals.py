"""What the benchmarks hold against each other: one encoder, one way to compute it.

B batch, L tokens, D width, N tokens of a batch. Every rival gets the same tokens, all of them real,
in sentences of 25 tokens; dropout is 0, with which BERT has a fused attention on every device, and
no rival is given a mask it does not need. The parts:

mixer: what replaces attention, without the output projection that all but FNet have behind it
layer: mixer, output projection, feed-forward, both norms
model: embeddings and all layers of the preset
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.harness import Step
from benchmarks.official import official_encoder
from ponet import (
    BertConfig,
    EncoderBatch,
    EncoderConfig,
    FNetConfig,
    HybridConfig,
    LocalGlobalConfig,
    PoNetConfig,
)
from ponet.dropout import Dropout
from ponet.encoders import Encoder, build_encoder
from ponet.flops import FORWARD_AND_BACKWARD, mixer_products, transform_flops

DTYPES = {"32": torch.float32, "bf16": torch.bfloat16}
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}
"""Lightning's names."""
CONFIG_CLASSES: dict[str, type[EncoderConfig]] = {"ponet": PoNetConfig, "official": PoNetConfig}
CONFIG_CLASSES |= {"bert": BertConfig, "local_global": LocalGlobalConfig, "fnet": FNetConfig}
CONFIG_CLASSES |= {"hybrid": HybridConfig}
SIZES = ("base", "small", "nano")
POOLING_PASSES = 16
"""Reads and writes of a (tokens, D) array by PoNet's pooling, forward and backward, if each large
array is read and written once per kernel; the count is explained in docs/performance/parts.md."""
OTHER_PASSES = 34
"""The same for the rest of a training layer: norms, residuals, GELU, with compiled pointwise code
and products that do nothing else."""
SAVINGS = {"": "", "none": ", no savings", "last block": ", last block where read"}
SAVINGS |= {"joined": ", joined texts", "both": ", both savings"}
TORCH_DROPOUT = ", PyTorch's dropout"
NAMES = {"ponet": "PoNet", "official": "official PoNet", "bert": "BERT"}
NAMES |= {"local_global": "local/global attention", "fnet": "FNet"}
NAMES |= {"hybrid": "PoNet with attention"}


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One encoder and how it is computed."""

    kind: Literal["ponet", "official", "bert", "local_global", "fnet", "hybrid"]
    """official: PoNet in the arrangement of the released code; hybrid: PoNet with local attention
    in every third layer."""
    kernels: str = "auto"
    """PoNet's kernel set."""
    compile_mode: str = ""
    """Mode of torch.compile; empty: not compiled."""
    compiles_plan: bool = False
    """Whether what all layers share of a batch, as PoNet's plan of its pools, is compiled too."""
    every_position: bool = False
    """Vocabulary logits at every position and a plain cross-entropy, as in the released code."""
    precision: str = ""
    """32 or bf16; empty: that of the setting."""
    savings: Literal["", "none", "last block", "joined", "both"] = ""
    """What a pretraining step leaves out: of the last block what is not read, padding, or both.
    Empty: on a CPU what a user gets, on CUDA the first."""
    torch_dropout: bool = False
    """`torch.nn.Dropout` in the place of this project's."""
    attention: str = ""
    """flash: FlashAttention, its third version where PyTorch has it; empty: PyTorch chooses."""

    @property
    def label(self) -> str:
        """The name in tables."""
        name = NAMES[self.kind] + (f" {self.kernels}" if self.kernels != "auto" else "")
        name += f" {self.attention}" if self.attention else ""
        name += ", compiled" if self.compile_mode else ""
        name += f" ({self.compile_mode})" if self.compile_mode not in ("", "default") else ""
        name += ", plan too" if self.compiles_plan else ""
        name += ", head at every position" if self.every_position else ""
        name += SAVINGS[self.savings]
        name += {"": "", "32": ", fp32"}.get(self.precision, f", {self.precision}")
        return name + (TORCH_DROPOUT if self.torch_dropout else "")

    def config(self, size: str, **fields: Any) -> EncoderConfig:
        """Return a preset's configuration; attention has no dropout."""
        if self.kind in ("bert", "local_global", "hybrid"):
            fields = {"attention_dropout_prob": 0.0, **fields}
        if self.kind == "ponet":
            fields["kernels"] = self.kernels
        return CONFIG_CLASSES[self.kind].preset(size, **fields)  # type: ignore[arg-type]

    def attending(self) -> AbstractContextManager[Any]:
        """Return the context in which the rival's steps run, backward passes too."""
        return sdpa_kernel(SDPBackend.FLASH_ATTENTION) if self.attention else nullcontext()

    def encoder(self, config: EncoderConfig) -> Encoder:
        """Return a new encoder."""
        return (official_encoder if self.kind == "official" else build_encoder)(config)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all rivals of one interleaved measurement have in common."""

    part: Literal["mixer", "layer", "model"]
    mode: Literal["training", "inference"]
    size: str
    """base, small or nano."""
    precision: str
    """32 or bf16 (autocast)."""
    device: str
    """cpu or cuda."""


def rivals_on(device: str, *, compile_mode: str) -> list[Rival]:
    """Return every way to compute the encoders; compiled ones only if a mode is given."""
    names = ("reference", "eager", *(["triton"] if device == "cuda" else []))
    plain = [Rival(kind="ponet", kernels=name) for name in names]
    others = [Rival(kind="bert"), Rival(kind="local_global"), Rival(kind="fnet")]
    found = [Rival(kind="official"), *plain, *others]
    if compile_mode:
        # The released arrangement does not compile (an in-place fill of a transposed view).
        kinds: tuple[Any, ...] = ("ponet", "bert", "local_global", "fnet")
        found += [Rival(kind=kind, compile_mode=compile_mode) for kind in kinds]
    return found


def flash_version() -> str:
    """Let PyTorch run FlashAttention 3, where it is installed; return which version runs."""
    from torch.nn import attention

    activate = getattr(attention, "activate_flash_attention_impl", None)
    if activate is None:
        return "2: this PyTorch registers no other"
    try:
        activate("FA3")
    except Exception as error:  # whatever the import of a foreign package raises
        return f"2: {type(error).__name__} with FA3: {error}"[:200]
    return "3"


def ours(rivals: list[Rival]) -> Rival:
    """Return the PoNet that a user gets: the last kernel set, or compiled."""
    return [rival for rival in rivals if rival.kind == "ponet"][-1]


def make_batch(
    num_texts: int, num_tokens: int, *, vocab_size: int, device: str, segment_len: int = 25,
    ends_are_special: bool = True,
) -> EncoderBatch:  # fmt: skip
    """Return random texts without padding, in segments of so many tokens."""
    shape = (num_texts, num_tokens)
    place_BL = torch.arange(num_tokens).expand(shape)
    special_BL = (place_BL == 0) | (place_BL == num_tokens - 1)
    segment_ids_BL = place_BL // segment_len
    if ends_are_special:
        segment_ids_BL = torch.where(special_BL, place_BL, 1 + segment_ids_BL)
    return EncoderBatch(
        input_ids=torch.randint(5, vocab_size, shape),
        mask=torch.ones(shape, dtype=torch.bool),
        token_type_ids=torch.zeros(shape, dtype=torch.int64),
        segment_ids=segment_ids_BL.clamp(max=num_tokens - 1),
        special_mask=special_BL & ends_are_special,
        segments_are_runs=True,
        has_padding=False,
    ).to(device)


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """Return the context in which a forward pass is computed."""
    return nullcontext() if precision == "32" else torch.autocast(device, DTYPES[precision])


def training_step(model: nn.Module, batch: EncoderBatch, optimizer: Any, precision: str) -> Step:
    """Return a step of a classifier: forward, backward and the optimizer's."""
    device = batch.mask.device
    targets_B = torch.zeros(len(batch.mask), dtype=torch.int64, device=device)

    def step() -> None:
        with autocast(device.type, precision):
            logits_BC = model(batch)
        F.cross_entropy(logits_BC.float(), targets_B).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def step_flops(
    kind: str, part: str, config: EncoderConfig, num_tokens: int, *, training: bool
) -> float:
    """Return the operations per token of one step; only attention and transform depend on L."""
    width = config.hidden_size
    layers = range(period(config))
    products = sum(mixer_products(config, num_tokens, layer=layer) for layer in layers)
    products /= len(layers) * num_tokens
    if kind == "official":
        products = 6 * width**2 + 2 * width
    if part == "mixer":
        products -= 0 if kind == "fnet" else width**2
    else:
        products += 2 * width * config.ffn_size
    # The Fourier transform has no weights, so its backward pass is one transform and not two.
    transform = transform_flops(config, num_tokens) / num_tokens
    once = 2 * products * (FORWARD_AND_BACKWARD if training else 1)
    once += transform * (2 if training else 1)
    return once * (config.num_layers if part == "model" else 1)


def period(config: EncoderConfig) -> int:
    """Return after how many layers they repeat; not all encoders have layers that are alike."""
    if isinstance(config, HybridConfig):
        return config.attention_every
    return config.global_every if isinstance(config, LocalGlobalConfig) else 1


class _InTurn(nn.Module):
    """Some layers or mixers, one after the other."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x_BLD: Tensor, plan: Any) -> Tensor:
        for part in self.parts:
            x_BLD = part(x_BLD, plan)
        return x_BLD


def least_layer_seconds(
    config: EncoderConfig, *, tokens: int, flops_per_s: float, bytes_per_s: float,
    bytes_per_value: int,
) -> float:  # fmt: skip
    """Return the bound of PoNet's training layer on a machine with these two rates.

    They are those of the best matrix product and of a copy (read plus written).
    """
    flops = tokens * step_flops("ponet", "layer", config, tokens, training=True)
    moved = (POOLING_PASSES + OTHER_PASSES) * tokens * config.hidden_size * bytes_per_value
    return flops / flops_per_s + moved / bytes_per_s


class Subject:
    """One rival in one setting: weights, inputs of every length, and the steps on them."""

    def __init__(self, rival: Rival, setting: Setting, shapes: list[tuple[int, int]]) -> None:
        """Build everything; the shapes are (texts, tokens) of each length."""
        torch.manual_seed(1)
        self.setting, self.rival = setting, rival
        device = setting.device
        sizes: dict[str, Any] = {"max_positions": max(tokens for _, tokens in shapes)}
        if setting.part != "model":
            sizes |= {"vocab_size": 64, "num_layers": period(rival.config(setting.size))}
        config = rival.config(setting.size, dropout_prob=0.0, **sizes)
        self.layers_per_step = 1 if setting.part == "model" else config.num_layers
        with torch.device(device):
            self.encoder = rival.encoder(config)
        self.encoder.train(setting.mode == "training")
        self.module = self._part()
        if rival.compile_mode:
            compile_in_place(self.module, rival.compile_mode)
        self.batches = {
            tokens: make_batch(texts, tokens, vocab_size=config.vocab_size, device=device)
            for texts, tokens in shapes
        }
        self.plans = {tokens: self.encoder.prepare(batch) for tokens, batch in self.batches.items()}
        # One input for all lengths: every step has the same number of tokens, or fewer.
        most = max(texts * tokens for texts, tokens in shapes)
        self.hidden_ND = torch.randn(most, config.hidden_size, device=device)
        self.gradient_ND = torch.randn(most, config.hidden_size, device=device)

    def _part(self) -> nn.Module:
        if self.setting.part == "model":
            return self.encoder
        blocks: list[Any] = list(self.encoder.layers)
        if self.setting.part == "mixer":
            for block in blocks:
                if hasattr(block.mixer, "output"):
                    block.mixer.output = nn.Identity()
            blocks = [block.mixer for block in blocks]
        return _InTurn(blocks) if len(blocks) > 1 else blocks[0]

    def step(self, num_tokens: int, *, depth: int = 1, keep_gradients: bool = False) -> Step:
        """Return a function that does forward and, in training, backward at this length.

        The mixer or layer is applied `depth` times, one after the other; where layers are not all
        alike, a whole `period` of them, which are `layers_per_step`. Gradients of weights are
        dropped after the step, as an optimiser's zero_grad does, or added to those that are there.
        """
        batch, plan = self.batches[num_tokens], self.plans[num_tokens]
        shape = batch.mask.shape
        values = (self.hidden_ND, self.gradient_ND)
        x_BLD, gradient_BLD = (v_ND[: shape.numel()].view(*shape, -1) for v_ND in values)
        device, precision = self.setting.device, self.setting.precision

        def output(x_BLD: Tensor) -> Tensor:
            if self.rival.compile_mode:
                torch.compiler.cudagraph_mark_step_begin()
            if self.setting.part == "model":
                return self.module(batch)
            for _ in range(depth):
                x_BLD = self.module(x_BLD, plan)
            return x_BLD

        def step() -> None:
            if self.setting.mode == "inference":
                attending = self.rival.attending()
                with attending, torch.inference_mode(), autocast(device, precision):
                    output(x_BLD)
                return
            leaf_BLD = x_BLD.detach().requires_grad_()
            with self.rival.attending(), autocast(device, precision):
                y_BLD = output(leaf_BLD)
            y_BLD.backward(gradient_BLD.to(y_BLD.dtype))
            if not keep_gradients:
                self.encoder.zero_grad(set_to_none=True)

        return step


def use_torch_dropout(module: nn.Module) -> None:
    """Put `torch.nn.Dropout` in the place of this project's."""
    for part in list(module.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, Dropout):
                setattr(part, name, nn.Dropout(child.p))


def compile_in_place(module: nn.Module, mode: str) -> None:
    """Compile for static shapes; a silent return to eager after too many shapes is an error."""
    torch._dynamo.config.recompile_limit = 64  # type: ignore[attr-defined]
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # type: ignore[attr-defined]
    if isinstance(module, Encoder):
        module.compile_blocks(mode)
    else:
        module.compile(dynamic=False, fullgraph=True, mode=mode)
