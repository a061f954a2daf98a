"""Tiny models, tokenizers and bundles that the tests of ponet.hub share."""

import torch

from ponet import BertConfig, FNetConfig, HybridConfig, PoNetConfig, PretrainingModel, save_bundle

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rain", "falls", "on", "the", "old", "town",
         "and", "a", "dog", "sleeps", "."]  # fmt: skip
SIZES = {"vocab_size": 20, "hidden_size": 16, "num_heads": 4, "num_layers": 2, "ffn_size": 24,
         "max_positions": 32, "init_range": 0.3}  # fmt: skip
CONFIGS = {
    "ponet": (PoNetConfig(**SIZES), 3),
    "ponet_without_pairs": (PoNetConfig(**SIZES, activation="gelu_tanh"), 0),
    "ponet_ablated": (PoNetConfig(**SIZES, global_pool="mean", use_local_pool=False,
                                  fusion_product=False, guard_special_tokens=False), 2),
    "bert": (BertConfig(**SIZES), 2),
    "bert_with_order": (BertConfig(**SIZES), 3),
    "bert_without_pairs": (BertConfig(**SIZES), 0),
    "fnet": (FNetConfig(**SIZES), 3),
    "fnet_released": (FNetConfig(**SIZES, embedding_projection=True, activation="gelu_tanh",
                                 type_vocab_size=4), 2),
    "hybrid": (HybridConfig(**SIZES, window=8), 3),
}  # fmt: skip


def make_model(name="ponet"):
    """A model with random weights, biases and norms included."""
    config, num_pair_classes = CONFIGS[name]
    torch.manual_seed(3)
    model = PretrainingModel(config, num_pair_classes=num_pair_classes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def write_tokenizer_json(path, *, template=True, words=WORDS):
    """A tokenizer.json of whole words."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

    vocab = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = [word for word in words if word.startswith("[")]
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in specials])
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(word, vocab[word]) for word in ("[CLS]", "[SEP]")],
        )
    tokenizer.save(str(path))
    return path


def make_bundle(folder, name="ponet", **tokenizer_options):
    """A bundle with a tokenizer, and its model."""
    model = make_model(name)
    path = folder.parent / f"{folder.name}.tokenizer.json"
    write_tokenizer_json(path, **tokenizer_options)
    save_bundle(folder, model, tokenizer_json=path, metadata={"objective": "mlm_sso", "steps": 7})
    return model


def make_export(folder):
    """An exported PoNet with a tokenizer, and its live model."""
    from ponet.hub.huggingface import SpecialTokens, export_huggingface

    model = make_bundle(folder / "bundle")
    export_huggingface(
        model,
        folder / "hf",
        special_tokens=SpecialTokens(cls_token_id=2, sep_token_id=3),
        tokenizer_path=folder / "bundle" / "tokenizer.json",
    )
    return folder / "hf", model
