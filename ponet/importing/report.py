"""What an import did, in words: which weights became which, and what was left out."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from ponet.importing.bundle_import import Imported
from ponet.inference import Guess

_GROUPS = ("encoder.embeddings", "encoder.layers", "pooler", "mlm_head", "pair_head")
_EXAMPLES = {
    "en": (
        "Paris is the [MASK] of France.",
        "She opened the [MASK] and walked into the house.",
        "The sun rises in the [MASK] and sets in the west.",
    ),
    "zh": (
        "北京是中国的[MASK]都。",
        "今天天气很[MASK]。",
        "太阳从[MASK]方升起。",
    ),
}


def report_lines(imported: Imported, *, with_names: bool = False) -> Iterator[str]:
    """Yield the lines of the report.

    Args:
        imported: What was done.
        with_names: Also every weight's names, ours and the source's.
    """
    converted, model = imported.converted, imported.bundle.model
    yield f"encoder     {model.config.kind}, {model.config.num_layers} layers of width " + (
        f"{model.config.hidden_size}, {model.config.max_positions} positions"
    )
    for note in imported.notes:
        yield f"source      {note}"
    table = [row for row in converted.table if row[0] not in converted.untrained]
    num_foreign = sum(len(keys) for _, keys in table)
    state = model.state_dict()
    yield (
        f"mapped      {num_foreign} weights of the source -> {len(table)} of the bundle, "
        f"{_count(state, [name for name, _ in table]):,} parameters"
    )
    for group in _GROUPS:
        rows = [row for row in table if row[0].startswith(f"{group}.")]
        if rows:
            foreign = sum(len(keys) for _, keys in rows)
            yield (
                f"  {group:18s} {foreign:4d} -> {len(rows):4d} weights  "
                f"{_count(state, [name for name, _ in rows]):13,} parameters"
            )
            if with_names:
                yield from (f"    {' + '.join(keys)} -> {name}" for name, keys in rows)
    yield f"copies      {_listed(converted.copies)} (repeat what is mapped, or count positions)"
    yield f"dropped     {_listed(converted.dropped)}"
    fresh = _count(state, list(converted.untrained))
    yield f"untrained   {_listed(converted.untrained)}" + (
        f": {fresh:,} parameters with fresh random values" if fresh else ""
    )
    yield f"tokenizer   {imported.tokenizer or 'none: encode and fill will not work'}"


def example_lines(imported: Imported) -> Iterator[str]:
    """Yield three filled sentences, or why there are none."""
    metadata = imported.bundle.metadata
    untrained = any(name.startswith("mlm_head.") for name in imported.converted.untrained)
    if imported.tokenizer is None or untrained:
        yield "fill        no examples: they need a tokenizer and a trained masked-LM head"
        return
    for text in _EXAMPLES.get(metadata.get("language") or "en", _EXAMPLES["en"]):
        yield text
        yield from guess_lines(imported.bundle.fill(text))


def guess_lines(guesses: Sequence[Sequence[Guess]]) -> Iterator[str]:
    """Yield one line for each [MASK]: the words and their probabilities."""
    for position, candidates in enumerate(guesses, start=1):
        shown = ", ".join(f"{guess.word} {guess.probability:.1%}" for guess in candidates)
        yield f"  [MASK] {position}: {shown}"


def _count(state: dict[str, Any], names: Sequence[str]) -> int:
    return sum(prod(state[name].shape) for name in names)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"
