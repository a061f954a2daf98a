"""Features of a word that no table was trained for: hashes of its characters.

Strings become numbers here; what a model makes of them is in `ponet/encoders/hashed.py`.
"""

from ponet.projection.pieces import PieceWords
from ponet.projection.words import WordFeatures

__all__ = ["PieceWords", "WordFeatures"]
