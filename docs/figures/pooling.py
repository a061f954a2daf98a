"""PoNet's three pools on one short text: which tokens each token reads, and how they are fused."""

from collections.abc import Callable

from drawing import AMBER, BLUE, GREEN, INK, LINE, MUTED, PAPER, SOFT, Drawing

TOKENS = ("[CLS]", "the", "cat", "sat", ".", "it", "purred", ".", "[SEP]")
SEGMENTS = (0, 1, 1, 1, 1, 2, 2, 2, 3)
SPECIAL = (0, 8)
WINDOW = 3
POOLS = ("global", "segment", "local")
COLOURS = {"global": BLUE, "segment": AMBER, "local": GREEN}


def reach(pool: str, token: int) -> tuple[int, ...]:
    """Return the places of the tokens that one token reads through one pool.

    Special tokens are guarded: they read the global pool alone and stay out of local windows.
    """
    everything = range(len(TOKENS))
    if pool == "global":
        return tuple(everything)
    if token in SPECIAL:
        return ()
    if pool == "segment":
        return tuple(n for n in everything if SEGMENTS[n] == SEGMENTS[token])
    half = WINDOW // 2
    return tuple(n for n in everything if abs(n - token) <= half and n not in SPECIAL)


def one_token(token: int = 2) -> Drawing:
    """Draw what one token reads, pool by pool, and the formula that joins the pools."""
    picture = Drawing(640, 560, f"What the token {TOKENS[token]!r} reads in each pool of PoNet")
    picture.text(24, 36, f"What “{TOKENS[token]}” reads", size=20, anchor="start", bold=True)
    rows = (
        ("global", "g", "every token, by attention of one mean query"),
        ("segment", "s", "largest value in its own sentence"),
        ("local", "l", "largest value among itself and its neighbours"),
    )
    for number, (pool, letter, words) in enumerate(rows):
        _row(picture, 64 + 128 * number, token, pool, (letter, words))
    picture.line([(24, 446), (616, 446)], colour=LINE)
    picture.text(24, 476, "New value of the token", size=17, anchor="start", bold=True)
    _formula(picture, 512)
    picture.text(
        24,
        542,
        "o: the token itself through a linear layer; × and + are element by element",
        size=15,
        colour=MUTED,
        anchor="start",
    )
    return picture


def _row(picture: Drawing, y: float, token: int, pool: str, label: tuple[str, str]) -> None:
    letter, words = label
    colour = COLOURS[pool]
    picture.text(24, y + 14, f"{letter}  {pool}", size=17, colour=colour, anchor="start", bold=True)
    picture.text(142, y + 14, words, size=16, colour=MUTED, anchor="start")
    read = reach(pool, token)
    for number, word in enumerate(TOKENS):
        x = 24 + 66 * number
        is_read = number in read
        picture.box(
            x,
            y + 28,
            60,
            36,
            fill=SOFT[colour] if is_read else SOFT[LINE],
            line=colour if is_read else LINE,
        )
        picture.text(
            x + 30, y + 51, word, colour=INK if is_read else MUTED, bold=number == token, size=15
        )
    first, last = 24 + 66 * read[0], 84 + 66 * read[-1]
    picture.line([(first, y + 70), (first, y + 78), (last, y + 78), (last, y + 70)], colour=colour)
    picture.text((first + last) / 2, y + 97, letter, colour=colour, bold=True, size=17)


def _formula(picture: Drawing, y: float) -> None:
    pieces = (
        ("(", INK),
        ("g", BLUE),
        ("+", INK),
        ("s", AMBER),
        (")", INK),
        ("×", INK),
        ("o", MUTED),
        ("+", INK),
        ("l", GREEN),
    )
    for number, (piece, colour) in enumerate(pieces):
        picture.text(36 + 30 * number, y, piece, size=24, colour=colour, bold=True)
    picture.text(316, y, "→ linear layer → add and norm", size=17, anchor="start")


def all_tokens() -> Drawing:
    """Draw the three tables of which token (row) reads which (column)."""
    picture = Drawing(640, 300, "Which token reads which in PoNet's global, segment and local pool")
    for number, pool in enumerate(POOLS):
        _grid(picture, 80 + 186 * number, pool, lambda row, pool=pool: reach(pool, row))
    for row, word in enumerate(TOKENS):
        picture.text(72, 68 + 22 * row, word, size=14, anchor="end", colour=MUTED)
    picture.text(
        24,
        280,
        "Row: the token that reads. Column: what it reads.",
        size=15,
        anchor="start",
        colour=MUTED,
    )
    return picture


def _grid(picture: Drawing, x: float, pool: str, read_by: Callable[[int], tuple[int, ...]]) -> None:
    colour = COLOURS[pool]
    picture.text(x + 84, 36, pool, size=17, bold=True, colour=colour)
    for row in range(len(TOKENS)):
        read = read_by(row)
        for column in range(len(TOKENS)):
            fill = colour if column in read else PAPER
            picture.box(x + 19 * column, 52 + 22 * row, 18, 21, fill=fill, line=LINE, radius=2)
