"""What a backend makes of a graph: something that runs, and can be looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# Arrays and NumPy scalars.
Run = Callable[..., tuple[Any, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Executable:
    """A compiled graph.

    Attributes
    ----------
    run : callable
        ``run(*arrays)``: one per input of the graph, positional; a tuple with one per output.
    text : str
        What runs.
    stats : Mapping
        "passes": per pass its milliseconds and the nodes before and after; "arena_bytes"; "called_back": how often
        the step calls a gate that has no printed form.
    """

    run: Run
    text: str
    stats: Mapping[str, Any]

    def source(self) -> str:
        """Exactly what runs."""
        return self.text
