"""`export`: a checkpoint, ordinary or a ZeRO folder, as a bundle or as an ordinary checkpoint.

Invariant: what was written is read back and compared with the checkpoint: every weight, and the
logits of a probe batch. A difference is an error, and the written files are removed.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

PROBE_TOLERANCE = 1e-5
"""Largest difference of a logit between the checkpoint's weights and the bundle's, both float32."""


def run_export(arguments: Sequence[str]) -> None:
    """`export CHECKPOINT [--output BUNDLE] [--checkpoint FILE.ckpt] [--folder SHARDS]`."""
    parser = argparse.ArgumentParser("ponet-pretrain export", description=__doc__)
    parser.add_argument("source", type=Path, help="checkpoint of a run, ordinary or of ZeRO")
    parser.add_argument("--output", type=Path, help="bundle folder to write, for fine-tuning")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="to write: a ZeRO folder as an ordinary checkpoint with the whole optimiser "
        "state, to be resumed with --resume on any number of devices",
    )
    parser.add_argument(
        "--folder", type=Path, help="shards with the tokenizer (default: those of the run)"
    )
    options = parser.parse_args(arguments)
    if options.output is None and options.checkpoint is None:
        raise ValueError("export writes nothing: give --output BUNDLE, --checkpoint FILE, or both")
    source: Path = options.source
    if not source.exists():
        raise ValueError(f"there is no checkpoint at {source}")
    from training.checkpoints.storage import is_sharded

    if options.checkpoint is not None and not is_sharded(source):
        raise ValueError(f"{source} is an ordinary checkpoint already; leave --checkpoint out")
    checkpoint, used = read_checkpoint(source)
    if options.checkpoint is not None:
        export_checkpoint(checkpoint, options.checkpoint)
        print(f"checkpoint: {options.checkpoint}")
    if options.output is not None:
        with _alone_in_run(options.output.parent):
            difference = export_bundle(checkpoint, used, options.output, shards=options.folder)
        print(f"bundle: {options.output}; logits as in the checkpoint (within {difference:.1e})")


def _alone_in_run(folder: Path) -> AbstractContextManager[None]:
    """Hold the folder, if it is a run's: a fit that is at work there writes the same bundle."""
    from training.run_config import METRICS_FILE, RUN_FILES
    from training.run_folder import sole_writer

    if not (folder / METRICS_FILE).exists():
        return nullcontext()
    return sole_writer(folder, own=RUN_FILES, doing="export")


def read_checkpoint(source: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a verified checkpoint with whole float32 weights, and the weights as trained with.

    Raises:
        CheckpointError: It is damaged.
        ValueError: It holds no pretraining run of this project.
    """
    from training.checkpoints.storage import is_sharded, load_checkpoint

    if is_sharded(source):
        from pretrain.strategies.consolidate import consolidate

        checkpoint, used = consolidate(source)
    else:
        checkpoint = load_checkpoint(source)
        used = checkpoint.get("state_dict", {})
    if "ponet_run" not in checkpoint:
        raise ValueError(f"{source} is not a checkpoint of `ponet-pretrain fit`: no 'ponet_run'")
    return checkpoint, used


def export_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write an ordinary checkpoint with its digest; it is verified after writing.

    Raises:
        ValueError: The file exists, or its name has another ending.
    """
    from training.checkpoints.storage import CHECKPOINT_SUFFIX, write_checkpoint

    if path.exists():
        raise ValueError(f"{path} exists; choose another name or remove it")
    if path.suffix != CHECKPOINT_SUFFIX:
        raise ValueError(f"--checkpoint {path}: the name must end in {CHECKPOINT_SUFFIX}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(checkpoint, path)


def export_bundle(
    checkpoint: Mapping[str, Any],
    used: Mapping[str, Any],
    output: Path,
    *,
    shards: Path | None = None,
) -> float:
    """Write a bundle with float32 weights; read it back and compare it with the checkpoint.

    Args:
        checkpoint: Whole float32 weights and what belongs to them.
        used: The weights that training computed with, maybe bfloat16.
        output: Bundle folder.
        shards: Folder with `tokenizer.json`; None: the run's data folder.

    Returns:
        The largest difference of a logit of the probe batch.

    Raises:
        ValueError: The tokenizer is missing or another one, or the written bundle differs.
    """
    from ponet import PretrainingModel, load_bundle, save_bundle

    run = checkpoint["ponet_run"]
    encoder, num_pair_classes = _model_settings(run)
    model = PretrainingModel(encoder, num_pair_classes=num_pair_classes).eval()
    model.load_state_dict(model_state(checkpoint["state_dict"]))
    state = checkpoint.get("PretrainDataModule", {})
    tokenizer = _tokenizer(run, state, shards)
    existed = output.exists()
    save_bundle(output, model, tokenizer_json=tokenizer, metadata=bundle_metadata(checkpoint))
    trained = PretrainingModel(encoder, num_pair_classes=num_pair_classes).eval()
    trained.load_state_dict(model_state(used))  # copied into float32, so rounded as they are
    written = load_bundle(output).model
    problem = _changed_weight(written, checkpoint["state_dict"])
    difference = probe_difference(model, written)
    if problem or difference > PROBE_TOLERANCE:
        if not existed:
            shutil.rmtree(output)
        raise ValueError(
            f"the bundle {output} is not the checkpoint's model: "
            + (f"{problem} differs" if problem else f"logits differ by {difference:.2e}")
        )
    rounding = probe_difference(trained, written)
    if rounding > 0:
        print(f"logits of the rounded weights that training used: within {rounding:.1e} of these")
    return difference


def model_state(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of `PretrainModule.model`, by the names a `PretrainingModel` has.

    The output layer is the word embeddings' own weight, so a tied copy has no name to be lost by.
    """
    return {
        name.removeprefix("model."): value
        for name, value in state_dict.items()
        if name.startswith("model.")
    }


def _model_settings(run: Mapping[str, Any]) -> tuple[Any, int]:
    """The encoder's configuration and the number of pair classes from `ponet_run`."""
    from ponet import EncoderConfig
    from pretrain.objectives import objective_named

    own = ("objective", "config")
    encoder = EncoderConfig.from_dict({k: v for k, v in run.items() if k not in own})
    return encoder, objective_named(run["objective"]).num_pair_classes


def bundle_metadata(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What BundleExport stores beside a model, read from a checkpoint."""
    state = checkpoint.get("PretrainDataModule", {})
    fingerprint = state.get("fingerprint", {})
    return {
        "objective": checkpoint["ponet_run"]["objective"],
        "steps": checkpoint["global_step"],
        "samples_seen": state.get("samples_seen"),
        "max_len": fingerprint.get("max_len"),
        "data_digest": fingerprint.get("data"),
    }


def _tokenizer(run: Mapping[str, Any], state: Mapping[str, Any], shards: Path | None) -> Path:
    from data_prep.manifest import TOKENIZER_NAME, TokenizerInfo

    folder = shards or run.get("config", {}).get("data", {}).get("folder")
    path = Path(folder or "") / TOKENIZER_NAME
    if folder is None or not path.is_file():
        raise ValueError(f"no tokenizer at {path}: give the folder of the run's shards by --folder")
    trained_with = state.get("fingerprint", {}).get("tokenizer")
    found = TokenizerInfo.from_file(path).digest
    if trained_with not in (None, found):
        raise ValueError(
            f"{path} is not the tokenizer of the run: its digest is {found[:12]}…, the run's "
            f"{trained_with[:12]}…; give the folder of the run's shards by --folder"
        )
    return path


def _changed_weight(model: Any, state_dict: Mapping[str, Any]) -> str | None:
    """The name of the first weight that is not the checkpoint's, or None."""
    import torch

    state = model_state(state_dict)
    found = model.state_dict()
    for name in sorted(state.keys() | found.keys()):
        if name not in state or name not in found or not torch.equal(state[name], found[name]):
            return name
    return None


def probe_difference(model: Any, other: Any) -> float:
    """The largest difference of any logit over two rows of fixed random tokens."""
    import torch

    from ponet import EncoderBatch

    config = model.config
    size = min(config.max_positions, 64)
    generator = torch.Generator().manual_seed(0)
    special = torch.zeros(2, size, dtype=torch.bool)
    special[:, [0, -1]] = True
    batch = EncoderBatch(
        input_ids=torch.randint(config.vocab_size, (2, size), generator=generator),
        mask=torch.ones(2, size, dtype=torch.bool),
        token_type_ids=torch.zeros(2, size, dtype=torch.int64),
        segment_ids=(torch.arange(size) // 8).expand(2, size).contiguous(),
        special_mask=special,
        segments_are_runs=True,
        has_padding=False,
    )
    with torch.inference_mode():
        ours, theirs = model(batch), other(batch)
    difference = float((ours.mlm_logits - theirs.mlm_logits).abs().max())
    if ours.pair_logits is not None:
        difference = max(difference, float((ours.pair_logits - theirs.pair_logits).abs().max()))
    return difference
