"""Any of our models with 8-bit weights, and how far its outputs are from those of floats.

Invariant: a folder is put in place only after it has been read again and compared.
"""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ponet.batch import EncoderBatch
from ponet.bundle import Model, read_config, read_model, save_bundle
from ponet.quantization import pack, unpack
from ponet.weight_files import new_folder

CARD_NAME = "README.md"


class Loss(NamedTuple):
    """What 8 bits change in the outputs."""

    difference: float
    """Largest absolute difference of any output."""
    largest: float
    """Largest absolute value of an output."""
    same: float
    """Share of the last layers' decisions (tags, labels) that stay."""

    @property
    def line(self) -> str:
        """What a user reads."""
        return (
            f"outputs within {self.difference:.2g} of the float weights' (largest "
            f"{self.largest:.2g}), {self.same:.1%} of the choices the same"
        )


def rounded(model: Model) -> Model:
    """Return a copy whose weights are those that 8 bits can say, as floats."""
    copied = copy.deepcopy(model)
    copied.load_state_dict(unpack(pack(model.state_dict())))
    return copied


def named_outputs(output: Any) -> dict[str, Tensor]:
    """Return the outputs of any of our models by their names."""
    if isinstance(output, Tensor):
        return {"logits": output}
    return {name: value for name, value in output._asdict().items() if value is not None}


@torch.inference_mode()
def compare(model: Model, other: Model, batches: Iterable[EncoderBatch]) -> Loss:
    """Return how far the outputs of two models of the same sizes are apart, at real tokens."""
    differences, values, same = [], [], []
    for batch in batches:
        ours, theirs = named_outputs(model(batch)), named_outputs(other(batch))
        for name, output in ours.items():
            at_real = batch.mask if output.dim() == 3 else slice(None)
            one, two = output[at_real], theirs[name][at_real]
            differences.append(float((one - two).abs().max()))
            values.append(float(one.abs().max()))
            if "logits" in name and one.shape[-1] > 1:
                same.append((one.argmax(-1) == two.argmax(-1)).float())
    share = float(torch.cat(same).mean()) if same else 1.0
    return Loss(max(differences), max(values), share)


def export_bits(
    model: Model,
    folder: Path,
    *,
    config: Mapping[str, Any],
    tokenizer_path: Path | None,
    card: str,
    batches: Iterable[EncoderBatch],
) -> None:
    """Write a bundle with 8-bit weights and its card, and read it again.

    Args:
        model: With its float weights.
        folder: Target; must not exist or be empty.
        config: The config.json of the source.
        tokenizer_path: tokenizer.json, or None.
        card: Text of README.md.
        batches: For the comparison.

    Raises:
        ValueError: The target is in use, or what was read is not what was meant; then nothing is
            left behind.
    """
    with new_folder(folder, replaces=False) as staging:
        save_bundle(
            staging,
            model,
            tokenizer_json=tokenizer_path,
            metadata=config["metadata"],
            task=config.get("task"),
            weights="int8-v1",
        )
        written = read_model(staging, read_config(staging))
        if compare(rounded(model), written, batches).difference:
            raise ValueError("what was written does not give what it was made of; export it again")
        (staging / CARD_NAME).write_text(card, encoding="utf-8")
