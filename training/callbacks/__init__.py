"""Callbacks of any run, as small values of `Trainer(callbacks=...)`."""
