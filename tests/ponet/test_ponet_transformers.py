"""BERT and FNet against transformers at random weights, both directions."""

import pytest
import torch
from ponet_reference import make_batch

from ponet import BertConfig, FNetConfig, PretrainingModel
from ponet.names import drop_tied_decoder, export_state, import_state, weight_table

transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_layers": 2, "ffn_size": 32, "max_positions": 16,
         "init_range": 0.2}  # fmt: skip
HF_SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32,
            "max_position_embeddings": 16, "initializer_range": 0.2}  # fmt: skip


def make_pair(kind):
    """A native model and transformers' class and config for the same sizes."""
    torch.manual_seed(0)
    if kind == "bert":
        theirs = transformers.BertConfig(**HF_SIZES, num_attention_heads=4, type_vocab_size=2)
        return PretrainingModel(BertConfig(**SIZES, num_heads=4), num_pair_classes=2), theirs
    config = FNetConfig(
        **SIZES, type_vocab_size=4, embedding_projection=True, activation="gelu_tanh"
    )
    return PretrainingModel(config, num_pair_classes=2), transformers.FNetConfig(**HF_SIZES)


def randomise(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.eval()


def call(kind, module, batch):
    inputs = {"input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids}
    if kind == "bert":
        inputs["attention_mask"] = batch.mask.long()
    with torch.no_grad():
        return module(**inputs)


@pytest.mark.parametrize("kind", ["bert", "fnet"])
def test_the_encoder_equals_transformers_in_both_directions(kind):
    native, config = make_pair(kind)
    model_class = {"bert": transformers.BertModel, "fnet": transformers.FNetModel}[kind]
    theirs, native, batch = randomise(model_class(config)), randomise(native), make_batch()
    names = [name for name in native.state_dict() if name.startswith(("encoder.", "pooler."))]
    table = weight_table(kind, names)

    imported = import_state(drop_tied_decoder(theirs.state_dict(), word_key="")[0], table)
    exported = export_state({name: native.state_dict()[name] for name, _ in table}, table)
    empty = randomise(model_class(config))
    result = empty.load_state_dict(exported, strict=False)
    assert not result.unexpected_keys
    assert all(key.endswith(("position_ids", "token_type_ids")) for key in result.missing_keys)
    with torch.no_grad():
        torch.testing.assert_close(
            native.encoder(batch), call(kind, empty, batch)[0], atol=1e-5, rtol=0
        )
        assert native.pooler is not None
        native.load_state_dict({**native.state_dict(), **imported})
        expected = call(kind, theirs, batch)
        hidden = native.encoder(batch)
        torch.testing.assert_close(hidden, expected.last_hidden_state, atol=1e-5, rtol=0)
        torch.testing.assert_close(native.pooler(hidden), expected.pooler_output, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["bert", "fnet"])
def test_the_pretraining_heads_equal_transformers(kind):
    native, config = make_pair(kind)
    names = {"bert": transformers.BertForPreTraining, "fnet": transformers.FNetForPreTraining}
    theirs, batch = randomise(names[kind](config)), make_batch()
    foreign, _ = drop_tied_decoder(
        theirs.state_dict(), word_key=f"{kind}.embeddings.word_embeddings.weight"
    )
    table = weight_table(kind, native.state_dict(), prefix=f"{kind}.")
    native.load_state_dict(import_state(foreign, table))
    native.eval()
    expected = call(kind, theirs, batch)
    with torch.no_grad():
        output = native(batch)
    torch.testing.assert_close(output.mlm_logits, expected.prediction_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.pair_logits, expected.seq_relationship_logits, atol=1e-5,
                               rtol=1e-5)  # fmt: skip
