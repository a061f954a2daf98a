"""Reports on pretraining runs: a self-contained HTML page, and two runs side by side."""
