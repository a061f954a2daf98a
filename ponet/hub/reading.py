"""What an exported model cannot know of the texts it was trained on, in words and as plain values.

Invariant: whatever makes its outputs differ from those of this package is said in a line.
"""

from collections.abc import Mapping
from typing import Any

from ponet.bundle import lacks_masked_head
from ponet.config import EncoderConfig, PoolingConfig
from ponet.inference import trained_positions

_GIVE_SEGMENTS = "give their numbers as segment_ids"
_NO_HEAD = "its head for masked words was never trained"
_RULES = {"sentence": "sentences", "text": "separators"}
"""Segments of pretraining by the names that they have in fine-tuning."""


def pretraining_texts(config: EncoderConfig, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `encode` does with a text, as the task of a classifier says it of its own.

    Args:
        config: Of the encoder.
        metadata: Of its bundle; what they do not say is as `Bundle.encode` has it.
    """
    texts: dict[str, Any] = {"max_len": trained_positions(config, metadata)}
    if isinstance(config, PoolingConfig):
        segments = metadata.get("segments") or {}
        rule, size = segments.get("rule", "sentence"), segments.get("tokens_per_segment")
        texts["segments"] = _RULES.get(rule, f"every {size} tokens")
        texts["language"] = metadata.get("language") or "en"
    if lacks_masked_head(metadata):
        texts["lacks_masked_head"] = True
    return texts


def differences(config: EncoderConfig, texts: Mapping[str, Any]) -> list[str]:
    """Return where transformers does something else with a text than this package.

    Args:
        config: Of the encoder.
        texts: What was done in training: the task of a classifier, or `pretraining_texts`.
    """
    lines = [f"texts of more than {texts['max_len']} tokens are cut only with truncation=True"]
    lines.append("[SEP], [MASK] and the like in a text are read as these tokens, not as letters")
    advice = f"{_GIVE_SEGMENTS}, because without them each text is one segment and outputs differ"
    lines += _on_segments(config, texts, advice)
    if texts.get("lacks_masked_head"):
        lines.append(f"{_NO_HEAD}; what pipelines fill in is noise")
    if config.sees_padding:
        lines.append("padding changes its outputs; give texts of one length, or one by one")
    return lines


def graph_differences(
    config: EncoderConfig, texts: Mapping[str, Any], *, command: str, segment_input: bool, head: str
) -> list[str]:
    """Return where a graph does something else with a text than this package.

    Args:
        config: Of the encoder.
        texts: As for `differences`.
        command: What gives the outputs here.
        segment_input: Whether segments are an input.
        head: Of a pretraining model: what its outputs are.
    """
    one_segment = (
        "this graph takes each text for one, so that its outputs differ from those of `python -m "
        f"{command}`; --segment-input makes their numbers an input"
    )
    lines = _on_segments(config, texts, _GIVE_SEGMENTS if segment_input else one_segment)
    if texts.get("lacks_masked_head") and head == "masked-lm":
        lines.append(f"{_NO_HEAD}; --head encoder leaves it out")
    return lines


def _on_segments(config: EncoderConfig, texts: Mapping[str, Any], advice: str) -> list[str]:
    """Return a line where training had pooling segments that a model cannot find by itself."""
    rule = texts.get("segments", "separators")
    if not isinstance(config, PoolingConfig) or rule == "separators":
        return []
    return [f"it was trained with {rule} as pooling segments; {advice}"]
