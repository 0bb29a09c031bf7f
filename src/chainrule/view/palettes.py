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
    "dark": Palette("#5fc792", "#ff8d94", "#8ea2dc", "#14181f", "#202732", "#1b212a", "#343d4a", "#7d8795", "#e8ecf2", "#a4afbf"),
}
""""board": green and red, as on the board. "safe": told apart by colour-blind readers too. "dark": the board's on a dark page."""

LINES = {"light": ("#0a63a6", "#b04f00"), "dark": ("#6ea3ff", "#ff9a56")}
"""Two lines of a plot, on light and on dark pages; green and red are for values and gradients."""

PLAIN = ("Helvetica", "Helvetica, Arial, 'DejaVu Sans', sans-serif")
MATHS = ("Times-Italic", "Georgia, 'Times New Roman', 'DejaVu Serif', serif")
"""Fonts' names for Graphviz, and for browsers."""
