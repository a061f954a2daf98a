"""Checkpoints that can be trusted: written whole or not at all, with a digest beside each."""
