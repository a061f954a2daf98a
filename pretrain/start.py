"""What a run begins with instead of fresh weights: a bundle, a run, or weights of others.

Invariant: the weights decide the encoder; a run that goes on needs them no more.
"""

import importlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, dict_to_namespace, namespace_to_dict
from pytorch_lightning import Callback, LightningModule, Trainer

from data_prep.command import counted
from data_prep.manifest import MANIFEST_NAME, Manifest, file_sha256
from ponet import EncoderConfig, load_bundle
from ponet.bundle import bundle_folder
from ponet.bundle_import import CHECKPOINT_SUFFIX, import_bundle
from ponet.foreign import run_encoder
from ponet.weight_files import CONFIG_NAME, TOKENIZER_NAME, WEIGHTS_NAME, read_json
from pretrain.module import PretrainModule
from pretrain.run_config import KEPT_KEY, MOST_UNUSED
from pretrain.takeover import GivenWeights, take_over
from training.checkpoints.storage import is_sharded, load_checkpoint, newest_valid
from training.interruption import say as say_aloud
from training.moments import kept_optimizer
from training.run_config import CHECKPOINT_FOLDER, CONFIG_KEY

_FREE = ("dropout_prob", "ffn_dropout_prob", "attention_dropout_prob", "kernels")
"""Fields of an encoder that change no weight: one that is given beside the weights decides them."""


def given_weights(source: str, *, keep_optimizer: bool = False) -> GivenWeights:
    """Return the weights that a path or a Hub id leads to.

    Args:
        source: Folder of a bundle; of a run, which may not have ended; a checkpoint of a run; or
            what `python -m ponet import` takes: the released PoNet, BERT and FNet in the layout of
            transformers.
        keep_optimizer: Read what the optimiser remembers as well. A run then means its newest
            checkpoint, also where it has a bundle.

    Raises:
        ValueError: Nothing of that kind is there, it is not wholly understood, or has no tokenizer;
            or it has no optimiser to keep.
    """
    path = Path(source).expanduser()
    folder = bundle_folder(path)
    is_bundle = (folder / CONFIG_NAME).is_file() and "encoder" in read_json(folder / CONFIG_NAME)
    if is_bundle and not keep_optimizer:
        return _of_bundle(source, folder)
    checkpoints = path / CHECKPOINT_FOLDER
    if checkpoints.is_dir():
        found = newest_valid(checkpoints, warn=say_aloud)
        if found is None:
            lacks = "a checkpoint" if is_bundle else "a bundle and without a checkpoint"
            raise ValueError(f"{source} is a run without {lacks}")
        path = found.path
    if keep_optimizer:
        _check_source(source, path)
    is_checkpoint = path.suffix == CHECKPOINT_SUFFIX
    if is_checkpoint:  # of this moment: a run at work gives the link another target
        path = Path(os.path.realpath(path))
    with tempfile.TemporaryDirectory(prefix="ponet-start-") as staging:
        bundle = Path(staging) / "bundle"
        name = str(path) if path.exists() else source  # of the Hub
        if is_checkpoint:
            import_bundle(name, bundle)
        else:
            import_bundle(name, bundle, add_missing_heads=True)
        weights = _of_bundle(source, bundle)
    if is_checkpoint:
        weights = replace(weights, checkpoint=path)
    return _with_optimizer(weights, path) if keep_optimizer else weights


def _check_source(source: str, path: Path) -> None:
    """Refuse to keep an optimiser where there is none, or one that is in parts."""
    if path.suffix != CHECKPOINT_SUFFIX or not path.exists():
        raise ValueError(
            f"{source} is neither a run with checkpoints nor one of them, so it has no optimiser "
            "for model.keep_optimizer to keep; give one of these as --model.start_from, or leave "
            "model.keep_optimizer out"
        )
    if is_sharded(path):
        raise ValueError(
            f"{path} was saved by ZeRO, with an optimiser in parts; put them together, and begin "
            f"with what that writes: ponet-pretrain export {path} --checkpoint "
            f"FILE{CHECKPOINT_SUFFIX}"
        )


def _with_optimizer(weights: GivenWeights, path: Path) -> GivenWeights:
    layers, content = weights.model.encoder.layers, load_checkpoint(path)
    optimizer = kept_optimizer(content, weights.model, layers=layers, where=path)
    return replace(weights, optimizer=optimizer, lineage={**weights.lineage, KEPT_KEY: True})


def _of_bundle(source: str, folder: Path) -> GivenWeights:
    bundle = load_bundle(folder)
    if bundle.tokenizer_path is None:
        raise ValueError(
            f"{source} has no {TOKENIZER_NAME}, so nothing says which word its rows belong to; put "
            "the tokenizer of its pretraining there"
        )
    digest = file_sha256(folder / WEIGHTS_NAME)
    return GivenWeights(
        source=source,
        model=bundle.model,
        tokenizer=bundle.tokenizer_path.read_text(encoding="utf-8"),
        lineage={"source": source, "weights_sha256": digest, "metadata": bundle.metadata},
    )


# --- the encoder's configuration ----------------------------------------------------------------


def settle_encoder(
    config: Namespace, *, weights: GivenWeights | None, checkpoint: Path | None
) -> None:
    """Fill in `model.encoder` of a command's options from what the command begins with.

    Args:
        config: The options; changed in place.
        weights: Weights to begin with.
        checkpoint: What the command goes on from, or evaluates; whoever wrote it knew the encoder.

    Raises:
        ValueError: There is no encoder, or the one given is not that of the weights.
    """
    given = _encoder_of(config.model.encoder)
    if weights is not None:
        rows = num_rows(config.data.folder, weights)
        encoder = grown_encoder(weights, given, num_tokens=rows, max_len=config.data.max_len)
    elif given is not None:
        return
    elif checkpoint is not None:
        encoder = _encoder_in(checkpoint)
    else:
        raise ValueError(
            "there is no encoder: give --config configs/encoder/NAME.yaml or --model.encoder for "
            "fresh weights, or --model.start_from to begin with given ones"
        )
    name = f"ponet.{type(encoder).__name__}"
    config.model.encoder = dict_to_namespace({"class_path": name, "init_args": asdict(encoder)})


def _encoder_in(checkpoint: Path) -> EncoderConfig:
    run = _whole(checkpoint).get(CONFIG_KEY)
    if run is None:
        raise ValueError(
            f"{checkpoint} is no checkpoint of `pretrain fit`: it has no {CONFIG_KEY!r}; give one, "
            "the folder of a run, or a bundle"
        )
    return run_encoder(run)


def _whole(checkpoint: Path) -> dict[str, Any]:
    if not is_sharded(checkpoint):
        return load_checkpoint(checkpoint)
    from pretrain.strategies.consolidate import consolidate

    return consolidate(checkpoint)[0]


def _encoder_of(given: Any) -> EncoderConfig | None:
    """Return the configuration that the parser will make of an option."""
    if given is None or isinstance(given, EncoderConfig):
        return given
    module, _, name = given.class_path.rpartition(".")
    kind = getattr(importlib.import_module(module), name).kind
    return EncoderConfig.from_dict({"kind": kind, **namespace_to_dict(given.init_args)})


def grown_encoder(
    weights: GivenWeights, given: EncoderConfig | None, *, num_tokens: int, max_len: int
) -> EncoderConfig:
    """Return the encoder of weights, with room for a vocabulary and a length.

    Args:
        weights: Decide all but the two sizes.
        given: An encoder that the command line names as well; its dropout and kernels count.
        num_tokens: Entries of the tokenizer of the shards.
        max_len: Longest sequence in tokens.

    Raises:
        ValueError: The given encoder is another one, or smaller; both values are named.
    """
    own = weights.model.config
    least: dict[str, Any] = {
        "vocab_size": max(own.vocab_size, num_tokens),
        "max_positions": own.max_positions if own.fixed_places else max(own.max_positions, max_len),
    }
    if given is None:
        return replace(own, **least)
    wanted = {"kind": own.kind, **asdict(own), **least}
    found = {"kind": given.kind, **asdict(given)}
    differing = [
        f"{name}: {found.get(name)!r} given, {value!r} in the weights"
        for name, value in wanted.items()
        if name not in (*_FREE, *least) and found.get(name) != value
    ]
    for name, room in (("vocab_size", MOST_UNUSED), ("max_positions", 1 << 62)):
        if not least[name] <= found[name] < least[name] + room:
            needed = f"{least[name]} needed by weights and shards"
            differing.append(f"{name}: {found[name]} given, {needed}")
    if differing:
        raise ValueError(
            f"model.encoder is not the encoder of {weights.source}: {'; '.join(differing)}. Leave "
            "the encoder out, the weights bring theirs; or begin with other weights"
        )
    return given


def num_rows(shards: str | Path, weights: GivenWeights) -> int:
    """Return how many rows of embeddings the tokenizer of a folder of shards needs.

    Raises:
        ValueError: There are no shards; the message says how to build ones that fit.
    """
    if not (Path(shards) / MANIFEST_NAME).is_file():
        raise ValueError(f"{shards} holds no token shards; {weights.advice}")
    return Manifest.load(shards).tokenizer.vocab_size


def evaluated_weights(path: Path) -> GivenWeights | None:
    """Return the weights that `--ckpt_path` leads to; None where it is a checkpoint of a run."""
    is_folder = (bundle_folder(path) / CONFIG_NAME).is_file()
    return given_weights(str(path)) if is_folder else None


def begin(
    module: PretrainModule,
    weights: GivenWeights,
    tokenizer_json: Path,
    *,
    trains: bool,
    say: Callable[[str], None],
) -> None:
    """Put given weights into the module of a command, and note where they are from.

    Args:
        module: Freshly built.
        weights: What it begins with.
        tokenizer_json: That of the shards.
        trains: Whether what is new will be trained; otherwise nothing may be new.
        say: Called with every line that the user should know.

    Raises:
        ValueError: An evaluation would score fresh values; or the optimiser to be kept has stepped
            the matrices by other rules.
    """
    kept, own = weights.optimizer, module.optimizer_config.matrices
    if kept is not None and kept.matrices != own:
        raise ValueError(
            f"model.optimizer.matrices is {own}, but the optimiser of {weights.source}, which "
            f"model.keep_optimizer keeps, has stepped the matrices by {kept.matrices}; give "
            f"--model.optimizer.matrices {kept.matrices}, or leave model.keep_optimizer out"
        )
    found = take_over(
        module.model,
        weights,
        tokenizer_json,
        new_positions=module.new_positions,
        new_words=module.new_words,
    )
    if found.new and not trains:
        raise ValueError(
            f"{weights.source} cannot be evaluated like that: {'; '.join(found.new)}. Give the "
            "shards and the --model.objective that fit it (mlm needs no pair head)"
        )
    module.started_from, module.given_states = weights.lineage, found.states
    say(f"the weights are those of {weights.checkpoint or weights.source}")
    if kept is not None:
        say(f"  and what its optimiser remembers after {counted(kept.steps, 'step(s)')}")
    for line in (*found.new, *found.left_out):
        say(f"  {line}")


class StartValidation(Callback):
    """Validate given weights before the first step, so that the curve begins with "before"."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run a validation of step 0, as the loop runs those of later steps."""
        loop: Any = trainer.fit_loop.epoch_loop.val_loop
        if trainer.global_step or not trainer.enable_validation:
            return
        trainer.validating = True
        loop.run()
        trainer.training = True
