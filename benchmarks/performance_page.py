"""Write docs/performance.md from the results of the benchmarks.

    python benchmarks/performance_page.py             (after benchmarks with --output docs/results)
    python benchmarks/performance_page.py --check     (1 if the page is not what it would write)

No number on the page is typed by hand: every one comes from a JSON file in docs/results.
"""

# ruff: noqa: E402 (the search path is mended before the imports that need it)
import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

_HERE = Path(__file__).resolve().parent
# A benchmark beside this file is named like the package data_prep: this folder must come last.
sys.path[:] = [
    str(_HERE.parent),
    *(entry for entry in sys.path if Path(entry or ".").resolve() != _HERE),
    str(_HERE),
]

import _page_sections as sections
from _work import OTHER_PASSES, POOLING_PASSES

Content = sections.Content
ROOT = _HERE.parent
KINDS: dict[str, tuple[str, Callable[[Content], list[str]]]] = {
    "encoders": ("Mixer, layer, model", sections.encoders),
    "pretraining": ("The whole pretraining step", sections.pretraining),
    "lra_table2": ("Long texts, the paper's Table 2", sections.lra_table2),
    "triton_kernels": ("Triton kernels", sections.triton_kernels),
    "data_loading": ("The loader", sections.data_loading),
    "data_prep": ("Text to token ids", sections.data_prep),
}
"""Beginning of a file's name -> heading, text. The name of the script is the same."""

INTRODUCTION = """# Speed and memory

Written by `python benchmarks/performance_page.py` from the JSON files in
[results](results/README.md), which the scripts in `benchmarks/` write (`--output docs/results`).
Ratios are what to trust: all rivals of a table ran in turn, in one process, in rounds of changing
order; a ratio is formed within a round, and the median over rounds is shown, with the lowest and
the highest in brackets. On one CPU thread the time is CPU time of the process.

**official PoNet** is the arrangement of the authors' released code as this project's own
implementation (`benchmarks/_official.py`, held to the same outputs and gradients by a test): five
projections of every token, each pool in a layout of its own; that code's casts to float32 around
the segment pool are left out. **BERT** has PyTorch's fused attention, no dropout on it, and no
mask. **PoNet reference** is this project's plain version, **PoNet eager** the one for any device,
**PoNet triton** the one for NVIDIA GPUs."""

BOUND = f"""## Why three projections are enough, and what the bound is

The query of PoNet's global pool is a mean, and a mean passes through a linear layer; the key bias
adds the same to all scores, which the softmax drops; the value is the key, and the shares add up to
one. So query and key are applied to pooled vectors only, and three projections of every token
remain of five: 72 D² operations per token and layer for training instead of 84 D², the same as BERT
without its attention.

The bound of a training layer is the time of these operations at the best matrix product measured in
the same run, plus {POOLING_PASSES + OTHER_PASSES} reads or writes of a (tokens, D) array at the
copy rate measured there. {POOLING_PASSES} belong to the pooling: the input twice for mean and
attention, three projections in and one result out, then in the backward pass the gradient, three
projections, their three gradients, the input once more and its gradient, read and written.
{OTHER_PASSES} belong to norms, residuals and GELU with compiled pointwise code. What a layer lacks
to the bound is time in pointwise passes beyond these, in products slower than the best one, and in
launches."""


def read_results(folder: Path) -> dict[str, tuple[str, Content]]:
    """Return name -> (kind, content) of all files that the page shows, in the page's order."""
    found = {}
    for kind in KINDS:
        for path in sorted(folder.glob(f"{kind}*.json")):
            content = json.loads(path.read_text())
            content["has_plot"] = path.with_suffix(".png").is_file()
            found[path.stem] = (kind, content)
    return found


def page(results: dict[str, tuple[str, Content]]) -> str:
    """Return the whole page."""
    lines = [INTRODUCTION, "", "## Claims", ""]
    lines += sections.claims(results) if results else ["Nothing has been measured yet."]
    lines += ["", *sections.gpu_note(results)]
    for kind, (heading, render) in KINDS.items():
        lines += ["", f"## {heading}", ""]
        mine = {name: content for name, (its, content) in results.items() if its == kind}
        if not mine:
            command = f"python benchmarks/{kind}.py --output docs/results"
            lines.append(f"Not measured yet: `{command}`.")
        for name, content in mine.items():
            first, *others = render(content)
            lines.append(f"`{name}.json`: {first}")
            if content.get("has_plot"):
                plot = f"results/{name}.png"
                lines += ["", f"[![{heading}: {name}]({plot})]({plot})"]
            lines += [*others, ""]
        while lines[-1] == "":
            lines.pop()
        if kind == "encoders":
            lines += ["", BOUND]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    text = page(read_results(options.results))
    if options.check:
        is_same = options.page.is_file() and options.page.read_text() == text
        print(f"{options.page} is {'up to date' if is_same else 'not what would be written'}")
        return 0 if is_same else 1
    options.page.write_text(text)
    print(options.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
