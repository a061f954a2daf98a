"""Rows of a task to batches: token ids, segments, texts of like length together, and a look."""
