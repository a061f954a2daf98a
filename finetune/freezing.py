"""`model.freeze`: which part of an encoder a fit leaves as it is."""

from typing import Literal

from data_prep.command import counted
from ponet import SequenceClassifier
from ponet.tagger import Tagger

Freeze = int | Literal["embeddings", "encoder"]


def check_freeze(freeze: Freeze) -> None:
    """Refuse what fits no encoder."""
    if isinstance(freeze, int) and freeze < 0:
        raise ValueError(f"model.freeze is {freeze}; give {_allowed('the number of its layers')}")


def freeze_part(
    classifier: SequenceClassifier | Tagger, freeze: Freeze, *, where: str, is_random: bool
) -> list[str]:
    """Freeze what `model.freeze` says, see `FreezableStack`; returns what is to be said of it.

    Args:
        classifier: Changed in place.
        freeze: 1 or more: the embeddings and as many first blocks of its encoder.
        where: What to call the encoder.
        is_random: Whether it has no trained weights.

    Raises:
        ValueError: It has not as many blocks.
    """
    if not freeze:
        return []
    encoder, layers, part = classifier.encoder, len(classifier.encoder.layers), str(freeze)
    if isinstance(freeze, int):
        if freeze > layers:
            what = f"{where} has {counted(layers, 'layer(s)')}"
            raise ValueError(f"model.freeze is {freeze}, but {what}; give {_allowed(layers)}")
        encoder.freeze(freeze)
        part = f"embeddings and {freeze} of {counted(layers, 'block(s)')}"
    else:
        encoder.freeze(0 if freeze == "embeddings" else None)
    sizes = [(p.numel(), p.requires_grad) for p in classifier.parameters()]
    trained, total = sum(n for n, is_trained in sizes if is_trained), sum(n for n, _ in sizes)
    lines = [f"frozen: {part}; {trained:,} of {total:,} parameters are trained"]
    if is_random:
        lines.append(
            f"WARNING: model.freeze is {freeze}, but the encoder has no trained weights: what is "
            "frozen stays as it was drawn. Give a pretrained one, or leave model.freeze out"
        )
    return lines


def _allowed(layers: object) -> str:
    numbers = f"1 to {layers} (they and as many first blocks), " if layers else ""
    return f"0 (nothing), embeddings, {numbers}or encoder (all but pooler and last layer)"
