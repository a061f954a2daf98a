"""A small SVG writer for the figures of the documentation; the same calls give the same bytes."""

from html import escape
from pathlib import Path

INK, MUTED, LINE, PAPER = "#1f2937", "#5b6472", "#c5cbd3", "#ffffff"
BLUE, AMBER, GREEN = "#2563eb", "#c2690a", "#0b7d5b"
SOFT = {BLUE: "#dbe7fe", AMBER: "#fdebd0", GREEN: "#d3f2e6", LINE: "#f3f5f7"}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


class Drawing:
    """Shapes on a white card of fixed size, in the order in which they are added."""

    def __init__(self, width: int, height: int, title: str) -> None:
        """Start an empty card.

        Args:
            width: Units of the view box; a page scales the picture to its column.
            height: The same.
            title: What the picture shows, for readers who cannot see it.
        """
        self.width, self.height = width, height
        self._parts = [f"<title>{escape(title)}</title>"]
        self.box(0, 0, width, height, fill=PAPER, line=LINE, radius=10)

    def box(  # noqa: PLR0913
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str = PAPER,
        line: str = INK,
        radius: float = 4,
    ) -> None:
        """Add a rectangle with its upper left corner at (x, y)."""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" '
            f'fill="{fill}" stroke="{line}" stroke-width="1.5"/>'
        )

    def text(  # noqa: PLR0913
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 16,
        colour: str = INK,
        anchor: str = "middle",
        bold: bool = False,
        mono: bool = False,
    ) -> None:
        """Add one line of text with its baseline at y; anchor is start, middle or end."""
        weight = ' font-weight="600"' if bold else ""
        family = " font-family=\"ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace\""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{colour}" '
            f'text-anchor="{anchor}"{weight}{family if mono else ""}>{escape(words)}</text>'
        )

    def line(
        self, points: list[tuple[float, float]], *, colour: str = INK, arrow: bool = False
    ) -> None:
        """Add a line through the points; with an arrow, a head at the last one."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
        )
        if arrow:
            (x0, y0), (x, y) = points[-2:]
            dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
            base_x, base_y = x - 9 * dx, y - 9 * dy
            corners = [
                (x, y),
                (base_x + 5 * dy, base_y + 5 * dx),
                (base_x - 5 * dy, base_y - 5 * dx),
            ]
            head = " ".join(f"{a:g},{b:g}" for a, b in corners)
            self._parts.append(f'<polygon points="{head}" fill="{colour}"/>')

    def svg(self) -> str:
        """Return the picture."""
        body = "\n  ".join(self._parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" role="img" font-family="{FONT}">\n'
            f"  {body}\n</svg>\n"
        )

    def save(self, path: Path) -> None:
        """Write the picture as UTF-8."""
        path.write_text(self.svg(), encoding="utf-8")
