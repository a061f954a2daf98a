"""Published speed and memory on long texts, for comparison with lra_table2.py."""

LENGTHS = [512, 1024, 2048, 4096, 8192, 16384]
PUBLISHED_STEPS_PER_S: dict[str, list[float | None]] = {
    "Transformer": [45.1, 19.4, 6.3, 1.8, None, None],
    "Performer": [39.4, 25.0, 14.3, 7.8, 4.0, 2.0],
    "Nyströmformer": [39.1, 30.3, 20.0, 11.5, 6.1, 3.1],
    "FNet": [83.4, 61.3, 38.1, 21.4, 11.0, 5.4],
    "PoNet": [50.4, 40.1, 27.8, 16.2, 8.7, 4.5],
}
"""PoNet paper (arXiv 2110.02442), Table 2, at LENGTHS; None: out of memory."""
PUBLISHED_PEAK_GB: dict[str, list[float | None]] = {
    "Transformer": [1.4, 2.5, 6.7, 23.8, None, None],
    "Performer": [1.5, 2.1, 3.1, 5.4, 9.8, 18.7],
    "Nyströmformer": [1.2, 1.5, 1.9, 2.8, 4.5, 8.2],
    "FNet": [1.1, 1.2, 1.4, 1.7, 2.3, 3.8],
    "PoNet": [1.1, 1.3, 1.7, 2.4, 3.6, 6.5],
}
"""The same table."""
