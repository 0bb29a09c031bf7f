"""Colours and fonts of pictures.

A value is always above its wire and a gradient below, so colour is never the only sign; each text colour has a contrast of at
least 4.5 to 1 on paper and on wash.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Palette:
    """What is drawn in which colour."""

    value: str
    gradient: str
    negative: str
    paper: str = "#fcfbf8"
    wash: str = "#f5f3ec"
    box: str = "#ffffff"
    line: str = "#d8d4c8"
    wire: str = "#8d9198"
    ink: str = "#22252a"
    soft: str = "#5f636a"


PALETTES = {
    "board": Palette("#17784a", "#c22f3b", "#5a6c9e"),
    "safe": Palette("#0a63a6", "#b04f00", "#6d6d6d"),
}
""""board": green and red, as on the board. "safe": told apart by colour-blind readers too."""

PLAIN = ("Helvetica", "Helvetica, Arial, 'DejaVu Sans', sans-serif")
MATHS = ("Times-Italic", "Georgia, 'Times New Roman', 'DejaVu Serif', serif")
"""Fonts' names for Graphviz, and for browsers."""
