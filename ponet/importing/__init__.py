"""`python -m ponet import`: checkpoints of other code bases, and of our own training, as bundles.

Invariant: every key of a source is mapped, named as a copy of a mapped one, or dropped because the
user said so; anything else is an error, and nothing is written.
"""
