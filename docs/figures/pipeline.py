"""The way from text to scores: which command makes what, and what comes in and goes out."""

from drawing import AMBER, BLUE, GREEN, INK, LINE, MUTED, SOFT, Drawing

STAGES = (
    ("text", ".txt  .jsonl  .parquet  Hub", "data_prep build"),
    ("shards", "token ids, boundaries, tokenizer", "pretrain fit"),
    ("run", "metrics, curves, checkpoints", "at its end"),
    ("bundle", "config, weights, tokenizer", "finetune fit"),
    ("scores", "classifier, result, table", ""),
)
SIDES = (
    ("released weights", "ponet import", True),
    ("Hugging Face, ONNX", "ponet export", False),
    ("vectors, words", "ponet encode, fill", False),
)
TOP, STEP, HEIGHT, WIDTH = 24, 116, 62, 300


def pipeline() -> Drawing:
    """Draw the stages from top to bottom, with import, export and use beside the bundle."""
    picture = Drawing(
        640, 576, "From text to scores: data_prep, pretrain, finetune; import and export"
    )
    for number, (name, content, command) in enumerate(STAGES):
        y = TOP + STEP * number
        fill, line = (SOFT[GREEN], GREEN) if name == "bundle" else (SOFT[LINE], MUTED)
        picture.box(24, y, WIDTH, HEIGHT, fill=fill, line=line, radius=8)
        picture.text(40, y + 27, name, size=18, anchor="start", bold=True)
        picture.text(40, y + 49, content, size=15, anchor="start", colour=MUTED)
        if command:
            picture.line([(64, y + HEIGHT), (64, y + STEP)], arrow=True)
            is_mono = command != "at its end"
            colour = BLUE if is_mono else MUTED
            picture.text(82, y + 95, command, size=16, anchor="start", colour=colour, mono=is_mono)
    _sides(picture, TOP + STEP * 3 + HEIGHT / 2)
    return picture


def _sides(picture: Drawing, middle: float) -> None:
    """What comes into the bundle and what goes out of it, on the right."""
    left, spine, edge = 404, 364, 24 + WIDTH
    for number, (what, command, comes_in) in enumerate(SIDES):
        y = middle + 92 * (number - 1)
        if comes_in:
            picture.line([(left, y), (spine, y), (spine, middle - 12), (edge, middle - 12)])
            picture.line([(spine, middle - 12), (edge, middle - 12)], arrow=True)
        else:
            picture.line(
                [(edge, middle + 10), (spine, middle + 10), (spine, y), (left, y)], arrow=True
            )
        picture.box(left, y - 31, 212, HEIGHT, fill=SOFT[AMBER], line=AMBER, radius=8)
        picture.text(left + 14, y - 5, what, size=16, anchor="start", bold=True, colour=INK)
        picture.text(left + 14, y + 18, command, size=15, anchor="start", colour=BLUE, mono=True)
