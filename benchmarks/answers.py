"""What all results together answer to "how many times as fast is PoNet, and in what memory".

The fastest form of each encoder counts, at the same precision and in the same rounds; where several
files measured a setting, the lowest ratio. So what stands here flatters PoNet nowhere.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.report import Content, Row
from benchmarks.rivals import TORCH_DROPOUT

WHAT = {"pretraining": "training step", "gpu": "training step", "inference": "encoding"}
"""Kind of a measurement -> what its rows are, where they are not of a layer."""
LAYER = "training layer"
ORDER = ("training step", "encoding", LAYER)
MEMORY = {
    "peak_gib": "GiB at most",
    "kib_per_token": "KiB a token of a batch",
    "further_mib": "MiB of a further layer",
}
FORMS = (" eager", " triton", " reference", " flash")
"""What a name may end in after the encoder's own."""


class Place(NamedTuple):
    """One setting at one length, in which encoders are compared; length 0: mixed lengths."""

    what: str
    size: str
    where: str
    length: int

    @property
    def setting(self) -> str:
        """The place without the length, in words."""
        return f"{self.what}, {self.size}, {self.where}"


class Fact(NamedTuple):
    """PoNet beside another encoder: how many times as fast it is, and memory by key of each."""

    place: Place
    rival: str
    speed: float
    own: Mapping[str, float]
    other: Mapping[str, float]


def facts(results: Mapping[str, tuple[str, Content]]) -> list[Fact]:
    """Return what the results say of PoNet beside others; name of a file -> (kind, content)."""
    found = [fact for kind, content in results.values() for fact in _facts_of(kind, content)]
    return sorted(found, key=lambda fact: _rank(fact.place))


def by_length(
    given: Iterable[Fact], rivals: Sequence[str]
) -> dict[tuple[str, str], dict[int, float]]:
    """Return (setting, rival) -> length -> the lowest ratio measured."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for place, rival, speed, *_ in given:
        if rival in rivals:
            speeds = found.setdefault((place.setting, rival), {})
            speeds[place.length] = min(speed, speeds.get(place.length, speed))
    return found


def memory(given: Iterable[Fact], length: int) -> dict[tuple[str, str], dict[str, float]]:
    """Return (setting, unit) -> encoder -> what it takes at this length, of the first file."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for place, rival, _, own, other in given:
        for key in (key for key in MEMORY if place.length == length and key in own):
            cells = found.setdefault((place.setting, MEMORY[key]), {"PoNet": own[key]})
            if cells["PoNet"] == own[key]:  # else another file, of another number of tokens
                cells.setdefault(rival, other[key])
    return found


def _rank(place: Place) -> tuple[int, bool, bool, bool]:
    """Return where a place stands in a table: steps first, CPUs first, fp32 first, small first."""
    where = place.where
    return ORDER.index(place.what), "GPU" in where, "bf16" in where, place.size == "base"


def _facts_of(kind: str, content: Content) -> Iterator[Fact]:
    stages = content.get("stages", {})
    given = content.get("rows", [*stages.get("steps", []), *stages.get("layers", [])])
    places: dict[Place, list[Row]] = {}
    for row in given:
        is_twin = row.get("rival", "").endswith(TORCH_DROPOUT)  # of a row that is there too
        if row.get("times_as_fast_as") and _what(kind, row) and not is_twin:
            places.setdefault(_place(kind, content, row), []).append(row)
    for place, rows in places.items():
        fastest: dict[str, Row] = {}
        for row in sorted(rows, key=lambda row: float(row["s"]["median"])):
            fastest.setdefault(_encoder(row), row)
        own = next((r for r in rows if r["rival"] == content.get("ours")), fastest.pop("PoNet"))
        for name, row in fastest.items():
            if name != "PoNet" and (speed := own["times_as_fast_as"].get(row["rival"])):
                yield Fact(place, name, speed["median"], _memory(own), _memory(row))


def _what(kind: str, row: Row) -> str:
    """Return what a row is of; nothing for what is not shown."""
    if "mode" in row and row["mode"] == "training":
        return LAYER if row["part"] == "layer" else ""
    return WHAT.get(kind, "")


def _place(kind: str, content: Content, row: Row) -> Place:
    size = row.get("encoder") or row.get("size") or content["settings"]["encoder"]
    device = "GPU" if "gpu" in content or "gpu" in content["machine"] else "CPU"
    suffix = row["rival"].rpartition(", ")[2]
    precision = suffix if suffix in ("fp32", "bf16") else row["precision"].replace("32", "fp32")
    return Place(_what(kind, row), size, f"{device}, {precision}", row["num_tokens"])


def _encoder(row: Row) -> str:
    name = str(row["rival"]).partition(",")[0]
    for form in FORMS:
        name = name.removesuffix(form)
    return name


def _memory(row: Row) -> dict[str, float]:
    return {key: row[key] for key in MEMORY if key in row}
