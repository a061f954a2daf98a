"""A model as a folder that transformers loads: PoNet as its twin, BERT and FNet as their own.

Invariant: a folder is put in place only after the Auto classes have loaded it and have given the
logits, the hidden states and every weight of our model.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ponet.batch import EncoderBatch
from ponet.bundle import PRETRAINING, TEXT_FACTS, UNTRAINED, Model
from ponet.config import BertConfig, EncoderConfig, FNetConfig, PoNetConfig
from ponet.config_fields import ProjectionConfig
from ponet.foreign_tokenizer import SETTINGS_NAME, SPECIAL_TOKENS_NAME
from ponet.heads import PretrainingModel, PretrainingOutput, SequenceClassifier
from ponet.hub.configuration_ponet import PoNetHubConfig
from ponet.hub.modeling_ponet import make_batch
from ponet.hub.standalone import write_code
from ponet.names import export_state, foreign_fields, weight_table
from ponet.projection.spelling import attributes_of
from ponet.tokenizer import check_tokenizer, load_tokenizer, special_names, tokenizer_facts
from ponet.weight_files import WEIGHTS_NAME, new_folder, read_json, weight_digest

TOLERANCE = 1e-5
"""Largest difference of a logit or hidden state of a PoNet, per unit of the largest of them."""
FOREIGN_TOLERANCE = 1e-4
"""The same for what is computed by code of others: BERT and FNet of transformers, ONNX graphs."""


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Ids that a model needs to know."""

    cls_token_id: int
    """Begins a sequence."""
    sep_token_id: int
    """Ends each text."""
    pad_token_id: int = 0
    """Fills rows up to a common length."""


def find_special_tokens(
    tokenizer_path: Path | None, *, vocab_size: int, separator_ids: Sequence[int] | None = None
) -> SpecialTokens:
    """Return the ids of a tokenizer, or those given where there is no tokenizer.

    Args:
        tokenizer_path: tokenizer.json, or None.
        vocab_size: Of the model.
        separator_ids: Ids of [CLS] and [SEP]; only without a tokenizer.
    """
    if tokenizer_path is not None:
        if separator_ids is not None:
            raise ValueError("--separator-ids given, but there is a tokenizer.json; leave it out")
        check_tokenizer(tokenizer_path, vocab_size=vocab_size)
        facts = tokenizer_facts(load_tokenizer(tokenizer_path), tokenizer_path)
        return SpecialTokens(
            cls_token_id=facts.cls_id, sep_token_id=facts.sep_id, pad_token_id=facts.pad_id
        )
    if separator_ids is None:
        raise ValueError(
            "the bundle has no tokenizer.json, so the ids of [CLS] and [SEP] are not known; "
            "give them by --separator-ids CLS SEP"
        )
    for value in separator_ids:
        if not 0 <= value < vocab_size:
            raise ValueError(f"--separator-ids {value} is not in [0, {vocab_size})")
    return SpecialTokens(cls_token_id=separator_ids[0], sep_token_id=separator_ids[1])


def export_huggingface(
    model: Model,
    folder: str | Path,
    *,
    special_tokens: SpecialTokens,
    tokenizer_path: Path | None = None,
    card: str = "",
    max_len: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> float:
    """Write a model as a folder of transformers, compare it, and put it in place.

    Args:
        model: Any of our pretraining models, or a classifier of sequences.
        folder: Target; must not exist or be empty.
        special_tokens: Ids that delimit and pad.
        tokenizer_path: tokenizer.json, or None to write no tokenizer.
        card: Text of README.md; nothing is written for an empty one.
        max_len: Where the tokenizer cuts if asked to; None: at the model's positions.
        facts: What else the configuration says: of a classifier's outputs id2label and the like,
            of a pretrained model `pretraining_facts`.

    Returns:
        The largest difference of any logit, hidden state or pooled output of the probe batches.

    Raises:
        ValueError: If the target is in use, or the written folder is not the same model; then
            nothing is left behind.
    """
    config = model.encoder.config

    with new_folder(Path(folder), replaces=False) as staging:
        twin = _twin_config(model, special_tokens, facts or {})
        twin.architectures = [_class_name(model)]
        twin.save_pretrained(staging)
        save_file(twin_state(model), staging / WEIGHTS_NAME, metadata={"format": "pt"})
        (staging / WEIGHTS_NAME).chmod(0o644)  # safetensors gives the owner alone access
        if isinstance(config, PoNetConfig):
            write_code(staging)
        if tokenizer_path is not None:
            # A Fourier transform has no mask, and transformers' FNet refuses one.
            has_mask = not isinstance(config, FNetConfig)
            length = max_len or config.max_positions
            write_tokenizer(tokenizer_path, staging, max_len=length, has_mask=has_mask)
        if card:
            (staging / "README.md").write_text(card, encoding="utf-8")
        return _compare_twin(model, staging, special_tokens)


def pretraining_facts(model: PretrainingModel, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return for a configuration what a bundle's metadata say of the texts of pretraining.

    transformers keeps it and has no use for it; `ponet import` reads it back. Of weights that were
    never trained it has the digests, so that they count as trained once they have changed.
    """
    facts = {key: metadata[key] for key in TEXT_FACTS if metadata.get(key)}
    state, names = model.state_dict(), metadata.get(UNTRAINED) or ()
    if digests := {name: weight_digest(state[name]) for name in names if name in state}:
        facts[UNTRAINED] = digests
    return {PRETRAINING: facts}


def write_tokenizer(
    tokenizer_path: Path, folder: Path, *, max_len: int, has_mask: bool = True
) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    A tokenizer that does not put [CLS] and [SEP] around a text gets a template that does.

    Args:
        tokenizer_path: tokenizer.json.
        folder: Target.
        max_len: Positions of the model in tokens; longer texts are cut where truncation is on.
        has_mask: Whether the model's forward takes an attention mask.
    """
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = load_tokenizer(tokenizer_path)
    names = special_names(tokenizer, str(tokenizer_path))
    cls, sep = names["cls_token"], names["sep_token"]
    if tokenizer.encode("").tokens != [cls, sep]:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls} $A {sep}",
            pair=f"{cls} $A {sep} $B:1 {sep}:1",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_len,
        model_input_names=["input_ids", "token_type_ids", *["attention_mask"] * has_mask],
        **names,
    ).save_pretrained(folder)
    # The name that every version of transformers knows for what it writes as TokenizersBackend.
    settings = {**read_json(folder / SETTINGS_NAME), "tokenizer_class": "PreTrainedTokenizerFast"}
    for name, values in ((SETTINGS_NAME, settings), (SPECIAL_TOKENS_NAME, names)):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _twin_config(model: Model, special_tokens: SpecialTokens, facts: Mapping[str, Any]) -> Any:
    """Return the configuration of the same model in transformers."""
    import transformers

    config = model.encoder.config
    values = {**foreign_fields(config), "pad_token_id": special_tokens.pad_token_id, **facts}
    if isinstance(config, PoNetConfig):
        num_pair_classes = getattr(model, "num_pair_classes", 0)
        values |= {**asdict(special_tokens), "num_pair_classes": num_pair_classes}
        return PoNetHubConfig(**values, has_pooler=model.pooler is not None)
    kind = transformers.BertConfig if isinstance(config, BertConfig) else transformers.FNetConfig
    return kind(**values)


def twin_state(model: Model) -> dict[str, Tensor]:
    """Return the weights by the names of transformers' class; tied ones stand there once.

    transformers' FNet always has a linear layer after the embeddings; where ours has none, it gets
    the identity, which changes no value.
    """
    native = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    config = model.encoder.config
    prefix, renamed = f"{config.kind}.", not isinstance(config, PoNetConfig)
    state = export_state(native, weight_table(config.kind, native, prefix=prefix, renamed=renamed))
    if isinstance(config, FNetConfig) and not config.embedding_projection:
        width = config.hidden_size
        state[f"{prefix}embeddings.projection.weight"] = torch.eye(width)
        state[f"{prefix}embeddings.projection.bias"] = torch.zeros(width)
    return {name: value.contiguous() for name, value in state.items()}


def _class_name(model: Model) -> str:
    """Return transformers' class for the heads there are.

    BertForPreTraining and FNetForPreTraining have a head of exactly two classes. Another one stays
    in the file under the same name, where AutoModelForMaskedLM leaves it aside.
    """
    kind = {"ponet": "PoNet", "bert": "Bert", "fnet": "FNet"}[model.encoder.config.kind]
    if isinstance(model, SequenceClassifier):
        return f"{kind}ForSequenceClassification"
    assert isinstance(model, PretrainingModel)
    has_class = model.num_pair_classes == 2 or (kind == "PoNet" and model.num_pair_classes > 0)
    return f"{kind}ForPreTraining" if has_class else f"{kind}ForMaskedLM"


def probe_batch(
    config: EncoderConfig,
    special_tokens: SpecialTokens,
    *,
    shape: tuple[int, int],
    has_padding: bool = True,
) -> EncoderBatch:
    """Return pairs of random texts, whose segments are the texts between separators.

    Args:
        config: Gives the range of the ids, and the longest length, to which L is cut.
        special_tokens: Ids that delimit and pad.
        shape: (B, L); L is the number of places where a mixer has a fixed one.
        has_padding: Whether the first of several rows is shorter than the others.
    """
    length = config.max_positions if config.fixed_places else min(shape[1], config.max_positions)
    rows = shape[0]
    generator = torch.Generator().manual_seed(rows * length)
    ids_BL = torch.randint(config.vocab_size, (rows, length), generator=generator)
    ids_BL[:, 0] = special_tokens.cls_token_id
    ids_BL[:, [length // 2, -1]] = special_tokens.sep_token_id
    mask_BL = torch.ones_like(ids_BL, dtype=torch.bool)
    if has_padding and rows > 1:
        mask_BL[0, length * 2 // 3 :] = False
    ids_BL = ids_BL.masked_fill(~mask_BL, special_tokens.pad_token_id)
    types_BL = (torch.arange(length) > length // 2).long().expand(rows, -1)
    types_BL = types_BL.clamp(max=max(config.type_vocab_size - 1, 0)).contiguous()
    if config.projection is not None:
        return _probe_words(config.projection, ids_BL, mask_BL, generator)
    separators = (special_tokens.cls_token_id, special_tokens.sep_token_id)
    return make_batch(ids_BL, mask_BL, types_BL, None, separators)


def _probe_words(
    projection: ProjectionConfig, ids_BL: Tensor, mask_BL: Tensor, generator: torch.Generator
) -> EncoderBatch:
    """Return random texts of random words, half as many as there are places."""
    num_words, size = ids_BL.numel() // 2 + 1, projection.feature_size
    if projection.is_bag:
        times = len(attributes_of("")) if projection.kind == "spelling" else 1
        length = projection.num_hashes * times
        features = torch.randint(size, (num_words, length), generator=generator)
    else:
        features = torch.randn(num_words, size, generator=generator)
    batch = make_batch(ids_BL % num_words, mask_BL, None, None, ())
    return replace(batch, word_features=features)


Outputs = Mapping[str, Tensor]


def largest_difference(
    ours: Outputs, theirs: Outputs, batch: EncoderBatch, *, tolerance: float
) -> float:
    """Return the largest difference of the outputs that both have, at real tokens.

    Args:
        ours: Values of the model in Python by their names.
        theirs: Values of what was exported.
        batch: What they are of.
        tolerance: Largest difference that is rounding, per unit of the largest value.
    """
    largest = 0.0
    for name in (name for name in ours if name in theirs):
        at_real = batch.mask if ours[name].dim() == 3 else slice(None)
        one, other = ours[name][at_real], theirs[name][at_real]
        difference = float((one - other).abs().max())
        limit = tolerance * max(1.0, float(one.abs().max()))
        if not difference <= limit:
            found = f"the exported model's {name} differs by {difference:.2e} from the bundle's"
            raise ValueError(f"{found}; at most {limit:.0e} is rounding, so nothing was written")
        largest = max(largest, difference)
    return largest


def _compare_twin(model: Model, folder: Path, special_tokens: SpecialTokens) -> float:
    """Load a written folder by the Auto classes and compare it with the model."""
    import transformers

    task = _class_name(model).partition("For")[2]
    auto = getattr(transformers, f"AutoModelFor{task}")
    config = model.encoder.config
    twin = _loaded(auto, folder)
    tolerance = TOLERANCE if isinstance(config, PoNetConfig) else FOREIGN_TOLERANCE
    was_training, largest = model.training, 0.0
    model.eval()
    is_fnet = isinstance(config, FNetConfig)
    for length in (33, 64):
        batch = probe_batch(config, special_tokens, shape=(3, length), has_padding=not is_fnet)
        # FNet mixes padding in, so it has none here, and no argument for it.
        inputs = {"input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids}
        if not is_fnet:
            inputs["attention_mask"] = batch.mask.long()
        with torch.inference_mode():
            ours, theirs = _our_outputs(model(batch)), twin(**inputs, output_hidden_states=True)
        theirs["last_hidden_state"] = theirs.hidden_states[-1]
        if "prediction_logits" in theirs:
            theirs["logits"] = theirs.prediction_logits
        largest = max(largest, largest_difference(ours, theirs, batch, tolerance=tolerance))
    model.train(was_training)
    return largest


def _loaded(auto_class: Any, folder: Path) -> Any:
    """Return a loaded model; a weight that the file lacks or has in another shape is an error."""
    from transformers.utils import logging

    with ExitStack() as stack:  # its table of unused heads would look like a warning about this one
        stack.callback(logging.set_verbosity, logging.get_verbosity())
        if logging.is_progress_bar_enabled():
            stack.callback(logging.enable_progress_bar)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        loaded, found = auto_class.from_pretrained(
            folder, output_loading_info=True, trust_remote_code=False, dtype=torch.float32
        )
    missing = sorted(found["missing_keys"])
    if missing or found["mismatched_keys"]:
        raise ValueError(
            f"transformers finds no weights for {', '.join(missing) or 'nothing'}, of another "
            f"shape for {found['mismatched_keys'] or 'nothing'}; nothing was written"
        )
    return loaded.eval()


def _our_outputs(output: Tensor | PretrainingOutput) -> Outputs:
    """Return what our models give by the names of transformers."""
    if isinstance(output, Tensor):
        return {"logits": output}
    found = {"last_hidden_state": output.last_hidden_state, "logits": output.mlm_logits}
    if output.pair_logits is not None:
        found["seq_relationship_logits"] = output.pair_logits
    return found
