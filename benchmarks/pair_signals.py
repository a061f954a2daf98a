"""What tells how two texts belong together, and how much of it a fresh encoder's first token sees.

    python -m benchmarks.pair_signals --folders data/python_docs data/wiki

Words alone: a linear model over the words of text 1 minus those of text 2 for their order; for
foreign pairs, whether the cosine of both texts' weighted words is below a threshold. Both are
fitted to training pairs and scored on validation pairs. First token: how far its last state differs
over texts, as a share of its size, in encoders that nothing was taught.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from benchmarks import report
from benchmarks.report import Option, Options, Row
from benchmarks.rivals import CONFIG_CLASSES
from ponet.heads import PretrainingModel
from pretrain.batches import encoder_batch
from pretrain.datamodule import PretrainDataModule
from pretrain.objectives import OBJECTIVES

OPTIONS = {
    "folders": Option([Path("data/python_docs")], "of shards"),
    "pairs": Option(16_000, "of training", short=500),
    "texts": Option(128, "whose first token is looked at", short=64),
    "widths": Option([128, 256, 768], "of encoders with two layers", short=[64]),
    "init_ranges": Option([0.02, 0.06, 0.09], "standard deviations of their weights"),
    "max_len": Option(128, "tokens of a pair"),
}
FOREIGN = OBJECTIVES["mlm_sso"].relations.index("random")


def data_of(folder: Path, options: Options) -> PretrainDataModule:
    """Return the data of a folder, in rows."""
    return PretrainDataModule(
        folder=str(folder), max_len=options.max_len, num_workers=0, verify_shards=False
    )


def words_of(data: PretrainDataModule, split: str, num_pairs: int) -> tuple[Any, Any, Any]:
    """Return how often each word is in text 1 and in text 2 of some pairs (N, V), and labels."""
    dataset = data._dataset(split)
    plan = dataset.plan(0)
    plan = plan.take(np.arange(min(num_pairs, len(plan))))
    tokens, size = np.asarray(dataset.shards.tokens), data.vocab_size

    def counted(starts: Any, lens: Any) -> Any:
        rows = np.repeat(np.arange(len(plan)), lens)
        words = np.concatenate([tokens[a : a + n] for a, n in zip(starts, lens, strict=True)])
        ones = np.ones(len(rows), np.float32)
        return sparse.csr_matrix((ones, (rows, words.astype(np.int64))), (len(plan), size))

    return counted(plan.a_start, plan.a_len), counted(plan.b_start, plan.b_len), plan.label


def weighted(counts: Any, idf: Any) -> Any:
    """Return rows of length 1 of counts that weigh rare words more."""
    found = counts.multiply(idf).tocsr()
    size = np.sqrt(np.asarray(found.multiply(found).sum(1)).ravel())
    return sparse.diags(1 / np.maximum(size, 1e-6)) @ found


def best_threshold(overlap: Any, is_foreign: Any) -> float:
    """Return below which overlap a pair counts as foreign, both classes counting alike."""
    places = np.quantile(overlap, np.linspace(0.05, 0.95, 91))
    return float(max(places, key=lambda place: balanced(overlap < place, is_foreign)))


def balanced(found: Any, truth: Any) -> float:
    """Return the mean share of right answers of two classes."""
    return float((found[truth].mean() + (~found[~truth]).mean()) / 2)


def words_alone(folder: Path, options: Options) -> Row:
    """Return how well words tell the order of two texts, and foreign ones from a document's own."""
    from sklearn.linear_model import LogisticRegression

    data, sides = data_of(folder, options), {}
    first, second, labels = words_of(data, "train", options.pairs)
    idf = np.log(len(labels) / (1 + np.asarray(((first + second) > 0).sum(0)).ravel()))
    for split in ("train", "validation"):
        one, two, labels = words_of(data, split, options.pairs)
        one, two = weighted(one, idf), weighted(two, idf)
        overlap = np.asarray(one.multiply(two).sum(1)).ravel()
        sides[split] = (one - two, overlap, labels)
    (change, overlap, labels), (new, new_overlap, truth) = sides["train"], sides["validation"]
    own, new_own = labels != FOREIGN, truth != FOREIGN
    model = LogisticRegression(C=1.0, max_iter=200).fit(change[own], labels[own])
    threshold = best_threshold(overlap, ~own)
    return {
        "folder": folder.name, "pairs": len(truth),
        "order": float(model.score(new[new_own], truth[new_own])),
        "foreign": balanced(new_overlap < threshold, ~new_own),
    }  # fmt: skip


@torch.inference_mode()
def first_token(folder: Path, kind: str, width: int, init_range: float, options: Options) -> Row:
    """Return how far a fresh encoder's first token differs over texts, as a share of its size."""
    data = data_of(folder, options)
    torch.manual_seed(1)
    sizes = {"vocab_size": data.vocab_size, "max_positions": options.max_len}
    sizes |= {"hidden_size": width, "ffn_size": 4 * width, "num_heads": width // 64}
    config = CONFIG_CLASSES[kind].preset("nano", init_range=init_range, **sizes)
    encoder = PretrainingModel(config).eval().encoder
    dataset, found = data._dataset("validation"), []
    for start in range(0, min(options.texts, len(dataset)), 32):
        batch = dataset.__getitems__(range(start, start + 32))
        found.append(encoder(encoder_batch(batch))[:, 0])
    states = torch.cat(found)
    share = float(states.std(0).norm() / states.mean(0).norm())
    return {"kind": kind, "width": width, "init_range": init_range, "share": share}


def main(arguments: Sequence[str] | None = None) -> None:
    options = report.parse(__doc__, OPTIONS, arguments)
    folders = [Path(folder) for folder in options.folders]
    content: Row = {"words": [words_alone(folder, options) for folder in folders]}
    content["first_token"] = [
        first_token(folders[0], kind, width, init_range, options)
        for kind in ("ponet", "bert")
        for width in options.widths
        for init_range in options.init_ranges
    ]
    options.folders = [folder.name for folder in folders]
    shown = report.finish("pair_signals", content, options)
    path = options.output / "pair_signals.md"
    path.write_text(f"# What tells pairs apart\n\n{shown}\n", encoding="utf-8")
    print(json.dumps(content["words"]))


if __name__ == "__main__":
    main()
