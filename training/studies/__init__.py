"""Sweeps in W&B's file format, run with or without W&B, and what follows each pretraining run."""
