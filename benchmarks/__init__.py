"""Speed and memory beside rivals: `python -m benchmarks.encoders`, `.loader`, `.text`, ...

Every module that is a measurement ends in a JSON file and a plot in `--output`, has a quick form
(`--short`), and holds its claims against what it measured. `python -m benchmarks.page` writes
docs/performance.md and docs/performance/ from the JSON files in docs/results.
"""
