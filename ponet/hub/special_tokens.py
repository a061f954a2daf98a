"""Which tokens delimit and pad, the tokenizer's files as transformers wants them, probe batches."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ponet.batch import EncoderBatch
from ponet.config import EncoderConfig
from ponet.importing.tokenizer_files import SETTINGS_NAME
from ponet.segments import segments_from_separators
from ponet.tokenizer import check_tokenizer, load_tokenizer, special_names, tokenizer_facts
from ponet.weight_files import read_json


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

    Raises:
        ValueError: If neither or both are given, a token is missing, or an id is outside of the
            vocabulary.
    """
    if tokenizer_path is None:
        if separator_ids is None:
            raise ValueError(
                "the bundle has no tokenizer.json, so the ids of [CLS] and [SEP] are not known; "
                "give them by --separator-ids CLS SEP"
            )
        cls_id, sep_id = separator_ids
        for value in (cls_id, sep_id):
            if not 0 <= value < vocab_size:
                raise ValueError(f"--separator-ids {value} is not in [0, {vocab_size})")
        return SpecialTokens(cls_token_id=cls_id, sep_token_id=sep_id)
    if separator_ids is not None:
        raise ValueError("--separator-ids given, but the bundle has a tokenizer.json; leave it out")
    check_tokenizer(tokenizer_path, vocab_size=vocab_size)
    facts = tokenizer_facts(load_tokenizer(tokenizer_path), tokenizer_path)
    return SpecialTokens(
        cls_token_id=facts.cls_id, sep_token_id=facts.sep_id, pad_token_id=facts.pad_id
    )


def write_tokenizer(
    tokenizer_path: Path, folder: Path, *, max_len: int, input_names: Sequence[str]
) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    A tokenizer that does not put [CLS] and [SEP] around a text gets a template that does.

    Args:
        tokenizer_path: tokenizer.json.
        folder: Target.
        max_len: Positions of the model in tokens; longer texts are cut where truncation is on.
        input_names: What the model's forward takes, such as "input_ids".
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = load_tokenizer(tokenizer_path)
    names = special_names(tokenizer, str(tokenizer_path))
    _add_template(tokenizer, names)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_len,
        model_input_names=list(input_names),
        **names,
    )
    wrapped.save_pretrained(folder)
    settings = folder / SETTINGS_NAME
    # The name that every version of transformers knows for what it writes as TokenizersBackend.
    values = {**read_json(settings), "tokenizer_class": "PreTrainedTokenizerFast"}
    settings.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    text = json.dumps(names, indent=2) + "\n"
    (folder / "special_tokens_map.json").write_text(text, encoding="utf-8")


def _add_template(tokenizer: Any, names: dict[str, str]) -> None:
    from tokenizers import processors

    cls, sep = names["cls_token"], names["sep_token"]
    if tokenizer.encode("").tokens == [cls, sep]:
        return
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )


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
        shape: (B, L).
        has_padding: Whether the first of several rows is shorter than the others.
    """
    rows, length = shape[0], min(shape[1], config.max_positions)
    generator = torch.Generator().manual_seed(rows * length)
    ids_BL = torch.randint(config.vocab_size, (rows, length), generator=generator)
    ids_BL[:, 0] = special_tokens.cls_token_id
    ids_BL[:, [length // 2, -1]] = special_tokens.sep_token_id
    mask_BL = torch.ones_like(ids_BL, dtype=torch.bool)
    if has_padding and rows > 1:
        mask_BL[0, length * 2 // 3 :] = False
    ids_BL = ids_BL.masked_fill(~mask_BL, special_tokens.pad_token_id)
    special_BL = (ids_BL == special_tokens.cls_token_id) | (ids_BL == special_tokens.sep_token_id)
    types_BL = (torch.arange(length) > length // 2).long().expand(rows, -1)
    return EncoderBatch(
        input_ids=ids_BL,
        mask=mask_BL,
        token_type_ids=types_BL.clamp(max=config.type_vocab_size - 1).contiguous(),
        segment_ids=segments_from_separators(special_BL),
        special_mask=special_BL,
    )
