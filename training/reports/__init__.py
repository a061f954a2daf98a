"""Reports on runs: self-contained HTML pages, and two runs of pretraining side by side."""
