"""A page that several benchmarks write, a section each."""

from __future__ import annotations

import re
from pathlib import Path


def write_section(path: Path, heading: str, text: str) -> None:
    """Replace a page's section, up to the next heading of its kind, or add it at the end."""
    page = path.read_text() if path.exists() else ""
    parts = re.split(r"^(?=# )", page, flags=re.MULTILINE)
    section = f"# {heading}\n\n{text.strip()}\n"
    if any(part.startswith(f"# {heading}\n") for part in parts):
        parts = [section if part.startswith(f"# {heading}\n") else part for part in parts]
    else:
        parts.append(section)
    path.write_text("\n".join(part.strip() + "\n" for part in parts if part.strip()))
