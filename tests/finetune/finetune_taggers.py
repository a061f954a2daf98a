"""A toy grammar of tagged texts, tiny encoders as YAML files, and fits on them."""

import json
import random
from pathlib import Path

from finetune_runs import BAD, GOOD, QUICK

from finetune.cli import main

MIXER = """
class_path: ponet.MLPMixerConfig
init_args:
  {hidden_size: 32, ffn_size: 32, num_layers: 1, max_positions: 16,
   projection: {feature_size: 64, num_hashes: 8, window: 1}}
"""
SIZES = "{num_layers: 1, hidden_size: 32, num_heads: 2, ffn_size: 64, max_positions: 16}"
ENCODERS = {
    "mixer": MIXER,
    "ponet": f"class_path: ponet.PoNetConfig\ninit_args: {SIZES}",
    "bert": f"class_path: ponet.BertConfig\ninit_args: {SIZES}",
}


def encoder_file(folder: Path, name: str) -> Path:
    """Write an encoder of `ENCODERS` and return its file."""
    lines = ENCODERS[name].strip().splitlines()
    path = folder / f"{name}.yaml"
    path.write_text("model:\n  encoder:\n" + "".join(f"    {line}\n" for line in lines))
    return path


def toy_text(generator: random.Random) -> dict:
    """`the good film` is a span of praise, `a bad film` one of blame; the first is the label."""
    words, tags, kinds = [], [], []
    for _ in range(generator.randint(1, 2)):
        words += ["it", "was"][: generator.randint(0, 2)]
        tags += ["O"] * (len(words) - len(tags))
        kinds.append(generator.choice(["praise", "blame"]))
        opinion = generator.choice(GOOD if kinds[-1] == "praise" else BAD)
        words += [generator.choice(["a", "the"]), opinion, generator.choice(["film", "film]"])]
        tags += [f"B-{kinds[-1]}", f"I-{kinds[-1]}", f"I-{kinds[-1]}"]
    return {"words": words, "tags": tags, "label": kinds[0]}


def write_tagged(path: Path, *, num_rows: int, seed: int, **changes: object) -> Path:
    """Write texts of the grammar as JSONL, with some keys replaced."""
    generator = random.Random(seed)
    rows = [{**toy_text(generator), **changes} for _ in range(num_rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tag_arguments(folder: Path, tokenizer_json: Path, name: str, *options: str) -> list[str]:
    """Return the arguments of a fit on the grammar, with the encoder of that name.

    Options win; `--run.name` is the encoder's. Files that are there already are used.
    """
    for number, split in enumerate(("train", "validation", "test")):
        path = folder / f"{split}.jsonl"
        if not path.exists():
            write_tagged(path, num_rows=160 if split == "train" else 40, seed=number)
    files = [f"--data.{s}={folder / s}.jsonl" for s in ("train", "validation", "test")]
    return [
        *("fit", "--model.encoder", str(encoder_file(folder, name)), "--data.kind", "tags"),
        *("--model.tokenizer", str(tokenizer_json), "--run.root", str(folder)),
        *("--run.name", name, *files, *QUICK, *options),
    ]


def run_tag_fit(folder: Path, tokenizer_json: Path, name: str, *options: str) -> Path:
    """Run it, which must succeed, and return the run's folder."""
    assert main(tag_arguments(folder, tokenizer_json, name, *options)) == 0
    return folder / name


def write_multiatis(path: Path, *, num_rows: int, seed: int) -> Path:
    """Write texts of the grammar as a table of MultiATIS++."""
    generator = random.Random(seed)
    lines = ["id\tutterance\tslot_labels\tintent"]
    for number in range(num_rows):
        row = toy_text(generator)
        words, tags = (" ".join(row[key]) for key in ("words", "tags"))
        lines.append(f"{number}\t{words}\t{tags}\t{row['label']}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
