"""What every run has, whatever is trained: folder, options, checkpoints, stops, reports."""
