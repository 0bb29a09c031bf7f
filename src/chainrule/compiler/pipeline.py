"""The pipeline: a graph goes through the passes and a backend, and comes out as something that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from chainrule.compiler.backend import Executable
from chainrule.compiler.numpy_code import load, print_source
from chainrule.compiler.simplify import simplify
from chainrule.graph.ir import Graph

__all__ = ["Executable", "build"]


def build(graph: Graph, *, backend: str = "numpy", memory_budget: int | None = None, donate: Mapping[int, int] | None = None) -> Executable:
    """Compile a graph.

    Parameters
    ----------
    graph : Graph
    backend : {"auto", "numpy"}
    memory_budget : int, optional
        Bytes.
    donate : Mapping of int to int, optional
        Per output the position of an input whose memory it may take over, if nothing else holds it when the step runs.

    Returns
    -------
    Executable
    """
    passes: dict[str, Any] = {}
    graph = _timed(passes, "simplify", simplify, graph)
    source, space, called = print_source(graph)
    return Executable(load(graph, source, space), source, {"passes": passes, "arena_bytes": 0, "called_back": dict(called)})


def _timed(passes: dict[str, Any], name: str, rewrite: Callable[[Graph], Graph], graph: Graph) -> Graph:
    before, began = len(graph.nodes), perf_counter()
    graph = rewrite(graph)
    passes[name] = {"milliseconds": 1e3 * (perf_counter() - began), "before": before, "after": len(graph.nodes)}
    return graph
