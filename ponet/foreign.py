"""A PretrainingModel from weights of others or of a checkpoint of ours.

Invariant: every key is mapped, named as a copy of a mapped one, or dropped because the user said
so; anything else is an error.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_prep.manifest import MANIFEST_NAME, TokenizerInfo
from ponet.config import EncoderConfig, PoNetConfig
from ponet.heads import PretrainingModel
from ponet.names import KeyTable, drop_tied_decoder, foreign_config, import_state, weight_table
from ponet.weight_files import (
    CONFIG_NAME,
    find_weights,
    load_strictly,
    read_config_metadata,
    read_json,
    read_weights,
    unwrapped,
)

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_RUN_KEY, _STARTED = "ponet_run", "started_from"
_NOT_ENCODER = ("objective", "config", _STARTED)


@dataclass(frozen=True, kw_only=True)
class ForeignModel:
    """A model and what became of every foreign key."""

    model: PretrainingModel
    """In evaluation mode, on the CPU, float32."""
    table: KeyTable
    """Native names and the foreign ones that each was made of."""
    copies: tuple[str, ...]
    """Foreign keys left out because they repeat what is known: counters and tied weights."""
    dropped: tuple[str, ...]
    """Foreign keys left out because the caller asked for it."""
    untrained: tuple[str, ...]
    """Native names that no foreign key gives; they hold fresh random values."""


def load_official(path: str | Path) -> PretrainingModel:
    """Return the authors' released model, in evaluation mode.

    Args:
        path: A folder with config.json and model.safetensors or pytorch_model.bin, or one
            .safetensors file with the configuration as JSON under the metadata key "config". In a
            file with groups of tensors, only "weights." is read.

    Raises:
        ValueError: If a file is missing or damaged, the configuration is not PoNet's, or a key is
            missing, unexpected, or contradicts what it is tied to.
    """
    source = Path(path)
    is_folder = source.is_dir()
    values = read_json(source / CONFIG_NAME) if is_folder else read_config_metadata(source)
    config = foreign_config({"model_type": "ponet", **values})
    if not isinstance(config, PoNetConfig):
        raise ValueError(
            f"{path} holds a model of the type {config.kind}; make it a bundle first: "
            f"python -m ponet import {path} --output BUNDLE"
        )
    state = read_weights(*(find_weights(source) if is_folder else [source]))
    return foreign_model(config, state, where=source).model


def foreign_model(
    config: EncoderConfig,
    foreign: Mapping[str, Tensor],
    *,
    where: object,
    drop: Sequence[str] = (),
    add_missing_heads: bool = False,
) -> ForeignModel:
    """Return the model of a foreign state dict.

    Args:
        config: Our configuration of the same encoder.
        foreign: State dict in the released, transformers' or our own naming, with or without
            "bert." and the like before the encoder's names.
        where: What to call the weights in an error.
        drop: Shell patterns of keys to leave out, such as "classifier.*"; each must match.
        add_missing_heads: Give a masked-LM head, or a pair head beside a pooler, fresh values
            where the weights have none. Otherwise that is an error.
    """
    kept, dropped = _without(unwrapped(foreign), drop)
    _check_values(kept, where)
    own = f"{config.kind}."
    prefix = own if any(key.startswith(own) for key in kept) else ""
    word_key = f"{prefix}encoder.embeddings.word.weight"  # our models keep the native names
    if renamed := word_key not in kept:
        word_key = f"{prefix}embeddings.word_embeddings.weight"
    state, copies = drop_tied_decoder(kept, word_key=word_key)
    if word_key not in state:
        raise ValueError(
            f"{where} has no word embeddings ({word_key}); its names are like "
            f"{', '.join(sorted(state)[:3]) or 'nothing'}: take off what stands before them"
        )
    starts = {
        "mlm_head": "cls.predictions." if renamed else "mlm_head.",
        "pair_head": "cls.seq_relationship." if renamed else "pair_head.",
        "pooler": f"{prefix}pooler.",
    }
    parts = {part for part, start in starts.items() if any(key.startswith(start) for key in state)}
    if not add_missing_heads:
        _check_heads(where, parts, starts)
    pair_weight = state.get(f"{starts['pair_head']}weight")
    model = _fresh_model(config, parts, pair_weight)
    absent = tuple(f"{head}." for head in ("mlm_head", "pair_head") if head not in parts)
    names = [name for name in model.state_dict() if not name.startswith(absent)]
    table = weight_table(config.kind, names, prefix=prefix, renamed=renamed)
    native = import_state(state, table)
    fresh = {name: value for name, value in model.state_dict().items() if name not in native}
    load_strictly(model, {**fresh, **native}, where)
    return ForeignModel(
        model=model.eval(),
        table=table,
        copies=tuple(copies),
        dropped=dropped,
        untrained=tuple(fresh),
    )


def _without(
    foreign: Mapping[str, Tensor], patterns: Sequence[str]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the state dict without the keys that match a shell pattern, and those keys."""
    dropped: set[str] = set()
    for pattern in patterns:
        matches = fnmatch.filter(foreign, pattern)
        if not matches:
            raise ValueError(f"--drop {pattern!r} matches none of the {len(foreign)} weights")
        dropped.update(matches)
    kept = {key: tensor for key, tensor in foreign.items() if key not in dropped}
    return kept, tuple(sorted(dropped))


def _check_values(state: Mapping[str, Tensor], where: object) -> None:
    """Refuse weights that are no floats, or not finite: every output would be NaN."""
    for key, tensor in state.items():
        is_counter = key.endswith((".position_ids", ".token_type_ids"))
        if tensor.dtype not in _FLOATS and not is_counter:
            needed = "float32, float16 or bfloat16 is needed, for a bundle is float32"
            raise ValueError(f"{where}: {key} is {tensor.dtype}; {needed}")
        if num_bad := int((~tensor.isfinite()).sum()):
            raise ValueError(
                f"{where}: {key} has {num_bad:,} of {tensor.numel():,} values that are NaN or "
                "infinite; take a checkpoint from before training diverged, or copy the file again"
            )


def _check_heads(where: object, parts: set[str], starts: Mapping[str, str]) -> None:
    advice = (
        "`python -m ponet import` with --add-missing-heads gives it fresh values, for fine-tuning "
        "or embeddings"
    )
    if "mlm_head" not in parts:
        missing = f"no masked-LM head (missing {starts['mlm_head']}*)"
        raise ValueError(f"{where} has {missing}; {advice}")
    if "pooler" in parts and "pair_head" not in parts:
        missing = f"a pooler but no pair head (missing {starts['pair_head']}*)"
        raise ValueError(f"{where} has {missing}; {advice}; --drop '*pooler.*' leaves both out")


def _fresh_model(
    config: EncoderConfig, parts: set[str], pair_weight: Tensor | None
) -> PretrainingModel:
    """Return a model with the same random values whenever it is called.

    A pair head that is made up has the classes of next sentence, or of PoNet's sentence order.
    """
    num_pair_classes = 0
    if pair_weight is not None:
        num_pair_classes = pair_weight.shape[0]
    elif parts & {"pair_head", "pooler"}:
        num_pair_classes = 3 if isinstance(config, PoNetConfig) else 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PretrainingModel(config, num_pair_classes=num_pair_classes)


def run_encoder(run: Mapping[str, Any]) -> EncoderConfig:
    """Return the encoder of what a checkpoint of ours says about its run."""
    return EncoderConfig.from_dict({k: v for k, v in run.items() if k not in _NOT_ENCODER})


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """The model of a checkpoint of our own pretraining and what is known of its run."""

    converted: ForeignModel
    """The model."""
    metadata: dict[str, Any]
    """What its bundle stores beside it."""
    shards: Path | None
    """What it was trained on, as the run named it."""
    tokenizer_digest: str | None
    """Of the run's tokenizer."""

    def check_tokenizer(self, tokenizer_json: Path, *, advice: str) -> None:
        """Refuse a tokenizer.json that is not the run's.

        Args:
            tokenizer_json: The file.
            advice: What to do otherwise.
        """
        found = TokenizerInfo.from_file(tokenizer_json).digest
        if self.tokenizer_digest not in (None, found):
            raise ValueError(
                f"{tokenizer_json} is not the tokenizer of the run: its digest is {found[:12]}…, "
                f"the run's {str(self.tokenizer_digest)[:12]}…; {advice}"
            )


def trained_model(
    checkpoint: Mapping[str, Any],
    *,
    where: object,
    drop: Sequence[str] = (),
    shards: Path | None = None,
) -> TrainedModel:
    """Return the model that a checkpoint holds, read without the code that wrote it.

    Whoever makes a bundle of a trained model asks here: the end of a run, `pretrain export`, and
    `import` of a checkpoint.

    Args:
        checkpoint: Its content, with whole weights.
        where: What to call it in an error.
        drop: Shell patterns of weights to leave out.
        shards: What it was trained on, where it lies now; None: where the run had it.
    """
    if _RUN_KEY not in checkpoint:
        raise ValueError(f"{where} is not a checkpoint of `pretrain fit`: it has no {_RUN_KEY!r}")
    run = checkpoint[_RUN_KEY]
    config = run_encoder(run)
    data = checkpoint.get("PretrainDataModule", {})
    fingerprint = data.get("fingerprint", {})
    named = run.get("config", {}).get("data", {}).get("folder")
    folder = shards or (Path(named) if named else None)
    language, segments = _language(folder, fingerprint.get("data")), fingerprint.get("segments", {})
    return TrainedModel(
        converted=foreign_model(config, checkpoint["state_dict"], where=where, drop=drop),
        metadata={
            "objective": run.get("objective"),
            "steps": checkpoint.get("global_step"),
            "samples_seen": data.get("samples_seen"),
            "max_len": fingerprint.get("max_len"),
            "data_digest": fingerprint.get("data"),
            **({"language": language} if language else {}),
            **({"segments": segments} if segments.get("rule", "sentence") != "sentence" else {}),
            **({_STARTED: run[_STARTED]} if run.get(_STARTED) else {}),
        },
        shards=folder,
        tokenizer_digest=fingerprint.get("tokenizer"),
    )


def _language(shards: Path | None, digest: str | None) -> str | None:
    """Return the language by whose rules shards were cut into sentences, if they are still there.

    Args:
        shards: Their folder.
        digest: What the run knows of them; of other shards nothing is said.
    """
    path = None if shards is None else shards / MANIFEST_NAME
    if path is None or not path.is_file():
        return None
    manifest = read_json(path)
    sentences = (manifest.get("settings") or {}).get("sentences") or {}
    return sentences.get("language") if manifest.get("digest") == digest else None
