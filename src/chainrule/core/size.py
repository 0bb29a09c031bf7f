"""Bytes as people write them: "200MB" is a number of bytes, and a number of bytes is "200 MB"."""

from __future__ import annotations

import re

from chainrule.core.errors import ArgumentError

_UNITS = {"": 1, "B": 1, **{f"{letter}{kind}": base**power for kind, base in (("B", 1000), ("iB", 1024)) for power, letter in enumerate("KMGT", 1)}}
_FORM = re.compile(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]*)\s*")


def parse_bytes(size: int | str, what: str = "a size") -> int:
    """A number of bytes from an int, or from text such as "200MB", "1.5 GB" or "64MiB".

    MB is 10**6 bytes and MiB 2**20; capitals do not matter.

    Raises
    ------
    ArgumentError
        If it is not such a size, or negative; ``what`` names it.

    Examples
    --------
    >>> from chainrule.core.size import parse_bytes
    >>> parse_bytes("200MB"), parse_bytes("1.5 KiB"), parse_bytes(4096)
    (200000000, 1536, 4096)
    """
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    found = _FORM.fullmatch(size) if isinstance(size, str) else None
    units = {unit.lower(): factor for unit, factor in _UNITS.items()}
    if found is None or found[2].lower() not in units:
        raise ArgumentError(f"{what} is {size!r}", mend='give bytes as an int, or text such as "200MB" or "1.5GiB"')
    return int(float(found[1]) * units[found[2].lower()])


def show_bytes(size: float) -> str:
    """A number of bytes for people to read, to three digits.

    Examples
    --------
    >>> from chainrule.core.size import show_bytes
    >>> show_bytes(1536), show_bytes(200_000_000)
    ('1.54 KB', '200 MB')
    """
    units = ["B", "KB", "MB", "GB", "TB"]
    while abs(size) >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.3g} {units[0]}"
