"""Tiny tokenizers, models and checkpoint folders in the layouts of others."""

import json

import torch
from safetensors.torch import save_file

from data_prep.tokenizer import wordpiece_from_vocab
from ponet import PoNetConfig, PretrainingModel
from ponet.names import export_state, weight_table

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [*SPECIAL, *".,!?:[]", *LETTERS, *(f"##{letter}" for letter in LETTERS),
         "the", "sun", "rises", "harbour", "is", "in", "boats", "##s"]  # fmt: skip
VOCAB = {word: number for number, word in enumerate(dict.fromkeys(WORDS))}
SIZES = {"vocab_size": len(VOCAB), "hidden_size": 16, "num_heads": 2, "num_layers": 2,
         "ffn_size": 32, "max_positions": 24, "init_range": 0.3}  # fmt: skip
RELEASED = {"vocab_size": "vocab_size", "hidden_size": "hidden_size", "num_heads":
            "num_attention_heads", "num_layers": "num_hidden_layers", "ffn_size":
            "intermediate_size", "max_positions": "max_position_embeddings",
            "init_range": "initializer_range"}  # fmt: skip
TEXTS = ["The sun rises.", "", "The harbour is in the sun. Boats! Is the sun in boats?", "boats"]


def make_model(config_class=PoNetConfig, *, num_pair_classes=3, **fields):
    torch.manual_seed(1)
    model = PretrainingModel(config_class(**SIZES | fields), num_pair_classes=num_pair_classes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def write_tokenizer(folder, *, lowercase=True):
    path = folder / "tokenizer.json"
    wordpiece_from_vocab(VOCAB, lowercase=lowercase).save(str(path))
    return path


def foreign_weights(model):
    """The weights under the released names, with the copies that transformers writes."""
    kind = model.config.kind
    native = model.state_dict()
    state = export_state(native, weight_table(kind, native, prefix=f"{kind}."))
    word = f"{kind}.embeddings.word_embeddings.weight"
    state["cls.predictions.decoder.weight"] = state[word].clone()
    state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"].clone()
    state[f"{kind}.embeddings.position_ids"] = torch.arange(model.config.max_positions)[None]
    return state


def foreign_values(model, **values):
    config = model.config
    named = {theirs: getattr(config, ours) for ours, theirs in RELEASED.items()}
    return {"model_type": config.kind, **named, "layer_norm_eps": 1e-12, **values}


def write_foreign(folder, model, *, values=None, weights=None, pickled=True):
    """config.json, weights and vocab.txt, as the authors and ModelScope ship them."""
    folder.mkdir()
    values = foreign_values(model) if values is None else values
    weights = foreign_weights(model) if weights is None else weights
    (folder / "config.json").write_text(json.dumps(values))
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors")
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in VOCAB))
    return folder


class Labelled:
    """Texts that numbers and slices look up by labels, as in a pandas Series; none is a place."""

    def __init__(self, texts):
        self.texts = list(texts)

    def __len__(self):
        return len(self.texts)

    def __iter__(self):
        return iter(self.texts)

    def __getitem__(self, label):
        if isinstance(label, slice):
            return Labelled([])
        raise KeyError(label)
