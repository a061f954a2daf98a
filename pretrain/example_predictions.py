"""What a bundle says at masked tokens of a few validation examples, as rows of a table."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from ponet import load_bundle
from pretrain.batches import PretrainDataset
from pretrain.module import encoder_batch
from pretrain.objectives import IGNORED_LABEL
from training.tracking import masked_context

_TOP = 3


def example_predictions(
    bundle_folder: Path, dataset: PretrainDataset, *, examples: int = 8, per_example: int = 6
) -> list[list[Any]]:
    """Rows with the columns `PREDICTION_COLUMNS`, for the first masked tokens of the examples.

    Runs on the CPU, in float32, on one process, whatever trained the model.

    Args:
        bundle_folder: A bundle with its tokenizer.
        dataset: Validation examples with their fixed masks.
        examples: Examples to take, the first ones; fewer where there are fewer.
        per_example: Masked tokens of each.
    """
    bundle = load_bundle(bundle_folder)
    tokenizer = Tokenizer.from_file(str(bundle.tokenizer_path))
    samples = list(range(min(examples, len(dataset))))
    batch = dataset.__getitems__(samples)
    positions = batch["masked_positions"][:, :per_example]
    with torch.inference_mode():
        output = bundle.model.forward_masked(encoder_batch(batch), positions)
    probabilities = output.mlm_logits.float().softmax(-1)
    rows: list[list[Any]] = []
    for number, sample in enumerate(samples):
        ids = batch["input_ids"][number][batch["mask"][number]].tolist()
        words = [tokenizer.id_to_token(i) for i in ids]
        labels = batch["masked_labels"][number, :per_example].tolist()
        for slot, label in enumerate(labels):
            if label == IGNORED_LABEL:
                continue
            position = int(positions[number, slot])
            likely = probabilities[number, slot]
            best = zip(*(values.tolist() for values in likely.topk(_TOP)), strict=True)
            guesses = [value for p, i in best for value in (tokenizer.id_to_token(i), p)]
            context = masked_context(words, position)
            truth = tokenizer.id_to_token(label)
            rows.append([sample, position, context, truth, float(likely[label]), *guesses])
    return rows
