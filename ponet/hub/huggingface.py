"""A bundle as a folder that transformers loads: PoNet as its twin, BERT and FNet as their own.

Invariant: a folder is put in place only after the Auto classes have loaded it and have given the
logits, the hidden states and every weight of the bundle's model.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ponet.batch import EncoderBatch
from ponet.config import BertConfig, FNetConfig, PoNetConfig
from ponet.heads import PretrainingModel, SequenceClassifier
from ponet.hub.configuration_ponet import PoNetHubConfig
from ponet.hub.special_tokens import SpecialTokens, probe_batch, write_tokenizer
from ponet.hub.standalone import write_code
from ponet.names import (
    KeyTable,
    encoder_table,
    export_state,
    foreign_fields,
    head_table,
    twin_table,
)
from ponet.weight_files import new_folder

TOLERANCE = 1e-5
"""Largest difference of a logit or hidden state of a PoNet, per unit of the largest of them."""
FOREIGN_TOLERANCE = 1e-4
"""The same for BERT and FNet, which transformers computes by code of its own."""
_CLASSIFIER_TABLE: KeyTable = [
    (name, (name,)) for name in ("classifier.weight", "classifier.bias")
]  # fmt: skip
Exportable = PretrainingModel | SequenceClassifier


def export_huggingface(
    model: Exportable,
    folder: str | Path,
    *,
    special_tokens: SpecialTokens,
    tokenizer_path: Path | None = None,
    card: str = "",
    max_len: int | None = None,
    labels: Mapping[str, Any] | None = None,
) -> float:
    """Write a model as a folder of transformers, compare it, and put it in place.

    Args:
        model: Any of our pretraining models, or a classifier of sequences.
        folder: Target; must not exist or be empty.
        special_tokens: Ids that delimit and pad.
        tokenizer_path: tokenizer.json, or None to write no tokenizer.
        card: Text of README.md; nothing is written for an empty one.
        max_len: Where the tokenizer cuts if asked to; None: at the model's positions.
        labels: What a classifier's configuration says of its outputs: id2label and the like.

    Returns:
        The largest difference of any logit, hidden state or pooled output of the probe batches.

    Raises:
        ValueError: If the target is in use, or the written folder is not the same model; then
            nothing is left behind.
    """

    def write(staging: Path) -> float:
        write_twin(model, staging, special_tokens, labels or {})
        config = model.encoder.config
        if tokenizer_path is not None:
            names = ["input_ids", "token_type_ids", "attention_mask"]
            write_tokenizer(
                tokenizer_path,
                staging,
                max_len=max_len or config.max_positions,
                # A Fourier transform has no mask, and transformers' FNet refuses one.
                input_names=names[:2] if isinstance(config, FNetConfig) else names,
            )
        if card:
            (staging / "README.md").write_text(card, encoding="utf-8")
        return compare_twin(model, staging, special_tokens)

    return put_in_place(Path(folder), write)


def put_in_place(target: Path, write: Callable[[Path], float]) -> float:
    """Let `write` fill a new folder, rename it to the target, and return what `write` returned.

    Raises:
        ValueError: If the target exists and is not an empty folder.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"--output {target} is in use; choose another folder or remove it")
    with new_folder(target) as staging:
        return write(staging)


def write_twin(
    model: Exportable, folder: Path, special_tokens: SpecialTokens, labels: Mapping[str, Any]
) -> None:
    """Write config.json and model.safetensors, and PoNet's code beside them."""
    config = twin_config(model, special_tokens, labels)
    config.architectures = [_class_name(model)]
    config.save_pretrained(folder)
    save_file(twin_state(model), folder / "model.safetensors", metadata={"format": "pt"})
    if isinstance(model.encoder.config, PoNetConfig):
        write_code(folder)


def twin_config(model: Exportable, special_tokens: SpecialTokens, labels: Mapping[str, Any]) -> Any:
    """Return the configuration of the same model in transformers."""
    import transformers

    config = model.encoder.config
    ids = asdict(special_tokens)
    if isinstance(config, PoNetConfig):
        return PoNetHubConfig.from_native(
            config,
            num_pair_classes=getattr(model, "num_pair_classes", 0),
            has_pooler=model.pooler is not None,
            **ids,
            **labels,
        )
    values = {**foreign_fields(config), "pad_token_id": ids["pad_token_id"], **labels}
    kind = transformers.BertConfig if isinstance(config, BertConfig) else transformers.FNetConfig
    return kind(**values)


def twin_state(model: Exportable) -> dict[str, Tensor]:
    """Return the weights by the names of transformers' class; tied ones stand there once.

    transformers' FNet always has a linear layer after the embeddings; where ours has none, it gets
    the identity, which changes no value.
    """
    native = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    config = model.encoder.config
    prefix = f"{config.kind}."
    if isinstance(config, PoNetConfig):
        state = export_state(native, twin_table(list(native), foreign_prefix=prefix))
    else:
        has_pooler = model.pooler is not None
        table = encoder_table(config, foreign_prefix=prefix, has_pooler=has_pooler)
        if isinstance(model, PretrainingModel):
            table += head_table(has_pair_head=model.num_pair_classes > 0)
        else:
            table += _CLASSIFIER_TABLE
        state = export_state(native, table)
    if isinstance(config, FNetConfig) and not config.embedding_projection:
        width = config.hidden_size
        state[f"{prefix}embeddings.projection.weight"] = torch.eye(width)
        state[f"{prefix}embeddings.projection.bias"] = torch.zeros(width)
    return {name: value.contiguous() for name, value in state.items()}


def _class_name(model: Exportable) -> str:
    """Return transformers' class for the heads there are.

    BertForPreTraining and FNetForPreTraining have a head of exactly two classes. Another one stays
    in the file under the same name, where AutoModelForMaskedLM leaves it aside.
    """
    kind = {"ponet": "PoNet", "bert": "Bert", "fnet": "FNet"}[model.encoder.config.kind]
    if isinstance(model, SequenceClassifier):
        return f"{kind}ForSequenceClassification"
    has_class = model.num_pair_classes == 2 or (kind == "PoNet" and model.num_pair_classes > 0)
    return f"{kind}ForPreTraining" if has_class else f"{kind}ForMaskedLM"


def compare_twin(model: Exportable, folder: Path, special_tokens: SpecialTokens) -> float:
    """Load a written folder by the Auto classes and compare it with the model.

    Returns:
        The largest difference of any logit, hidden state or pooled output.

    Raises:
        ValueError: If a weight is missing or a difference is above the tolerance.
    """
    import transformers

    task = _class_name(model).partition("For")[2]
    auto = getattr(transformers, f"AutoModelFor{task}")
    config = model.encoder.config
    twin, body = _loaded(auto, folder), _loaded(transformers.AutoModel, folder)
    tolerance = TOLERANCE if isinstance(config, PoNetConfig) else FOREIGN_TOLERANCE
    largest, was_training = 0.0, model.training
    model.eval()
    is_fnet = isinstance(config, FNetConfig)
    for length in (33, 64):
        batch = probe_batch(config, special_tokens, shape=(3, length), has_padding=not is_fnet)
        # FNet mixes padding in, so it has none here, and no argument for it.
        inputs = {"input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids}
        if not is_fnet:
            inputs["attention_mask"] = batch.mask.long()
        for name, ours, theirs in _outputs(model, batch, twin, body, inputs):
            difference = float((ours - theirs).abs().max())
            scale = max(1.0, float(ours.abs().max()))
            if not difference <= tolerance * scale:
                raise ValueError(
                    f"the exported model's {name} differs by {difference:.2e} from the bundle's; "
                    f"at most {tolerance * scale:.0e} is rounding, so nothing was written"
                )
            largest = max(largest, difference)
    model.train(was_training)
    return largest


def _loaded(auto_class: Any, folder: Path) -> Any:
    """Return a loaded model; a weight that the file lacks or has in another shape is an error."""
    with _quiet():  # its table of unused heads would look like a warning about this folder
        loaded, found = auto_class.from_pretrained(
            folder, output_loading_info=True, trust_remote_code=False, dtype=torch.float32
        )
    missing = sorted(found["missing_keys"])
    if missing == ["pooler.dense.bias", "pooler.dense.weight"]:
        missing = []  # the base model of BERT and FNet makes one up where none was trained
    if missing or found["mismatched_keys"]:
        raise ValueError(
            f"transformers finds no weights for {', '.join(missing) or 'nothing'} and others of "
            f"another shape for {found['mismatched_keys'] or 'nothing'}; nothing was written"
        )
    return loaded.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars and warnings away for a while."""
    from transformers.utils import logging

    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()


@torch.inference_mode()
def _outputs(
    model: Exportable, batch: EncoderBatch, twin: Any, body: Any, inputs: dict[str, Tensor]
) -> list[tuple[str, Tensor, Tensor]]:
    """Return name, our value and transformers' value of all that both compute, at real tokens."""
    ours, theirs, encoded = model(batch), twin(**inputs), body(**inputs)
    if isinstance(model, SequenceClassifier):
        pooled = model.pooler(model.encoder(batch))
        return [("logits", ours, theirs.logits), ("pooled output", pooled, encoded.pooler_output)]
    logits = theirs.prediction_logits if "prediction_logits" in theirs else theirs.logits
    real_BL = batch.mask
    found = [
        ("last hidden state", ours.last_hidden_state[real_BL], encoded.last_hidden_state[real_BL]),
        ("masked-LM logits", ours.mlm_logits[real_BL], logits[real_BL]),
    ]
    if model.pooler is not None:
        pooled = model.pooler(ours.last_hidden_state)
        found.append(("pooled output", pooled, encoded.pooler_output))
    if ours.pair_logits is not None and "seq_relationship_logits" in theirs:
        found.append(("pair logits", ours.pair_logits, theirs.seq_relationship_logits))
    return found
