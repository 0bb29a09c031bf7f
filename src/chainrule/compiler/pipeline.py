"""The pipeline: a graph goes through the passes and a backend, and comes out as something that runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from time import perf_counter
from typing import TypeVar

from chainrule.autodiff.checkpoint import opened, without_barriers
from chainrule.compiler.backend import Executable
from chainrule.compiler.memory import LARGE
from chainrule.compiler.native.backend import caller, recalled
from chainrule.compiler.native.conv_shape import Target
from chainrule.compiler.native.emit import Program, emit
from chainrule.compiler.native.engine import available, host, machine_kind
from chainrule.compiler.native.parts import in_parts
from chainrule.compiler.native.recall import key_of_graph, recall
from chainrule.compiler.numpy_code import Source, load, print_source
from chainrule.compiler.remat import Report, rematerialize
from chainrule.compiler.simplify import simplify
from chainrule.compiler.slopes import slopes
from chainrule.core.errors import ArgumentError, CompileWarning, MissingExtraError
from chainrule.graph.ir import Graph

__all__ = ["Executable", "build", "check_backend"]

T = TypeVar("T")

BACKENDS = ("auto", "numpy", "native")


def check_backend(name: str) -> None:
    """Refuse a backend that is none of these.

    Raises
    ------
    ArgumentError
    """
    if name not in BACKENDS:
        raise ArgumentError(f"there is no backend {name!r}", mend=f"choose one of {', '.join(map(repr, BACKENDS))}")


def build(
    graph: Graph,
    *,
    backend: str = "numpy",
    memory_budget: int | None = None,
    donate: Mapping[int, int] | None = None,
    halves: bool = False,
    check: bool = False,
) -> Executable:
    """Compile a graph.

    Parameters
    ----------
    graph : Graph
    backend : {"auto", "numpy", "native"}
        "auto" is machine code if llvmlite is installed, else NumPy code.
    memory_budget : int, optional
        Bytes.
    donate : Mapping of int to int, optional
        Per output the position of an input whose memory it may take over, if nothing but one Tensor's slot holds it when the step runs.
        The caller passes it right from there: ``run(x._value, state._value)``.
    halves : bool
        Whether machine code may round the operands of products of float32 to bfloat16.
    check : bool
        Verify the graph after every pass.

    Returns
    -------
    Executable

    Raises
    ------
    ArgumentError
        If there is no such backend.
    TraceError
        If a pass made a graph that is not right.
    """
    check_backend(backend)
    native = backend == "native" or (backend == "auto" and prefers_native())
    watch = _Watch(check)
    graph = watch.rewrite("simplify", lambda graph: simplify(opened(graph)), graph)
    if native:
        # Before anything is computed twice: what is alike is merged.
        graph = watch.rewrite("parts", lambda graph: simplify(in_parts(graph)), graph)
        graph = watch.rewrite("slopes", slopes, graph)
    reports: list[Report] = []

    def fit(graph: Graph) -> Graph:
        if memory_budget is None:
            return without_barriers(graph)
        taken = {out: given for out, given in (donate or {}).items() if graph.outputs[out].nbytes >= LARGE}
        graph, report = rematerialize(graph, memory_budget, donate=taken)
        reports.append(report)
        return graph

    graph = watch.rewrite("remat", fit, graph)
    made = _native(graph, watch, donate or {}, halves=halves) if native else _numpy(graph, watch, donate or {}, arena=memory_budget is None)
    return replace(made, stats={**made.stats, "memory": reports[0]}) if reports else made


@cache
def prefers_native() -> bool:
    """Whether "auto" means machine code; says so once where it cannot."""
    why = ""
    try:
        # What is installed may yet be broken.
        if available() and host():
            return True
    except MissingExtraError as error:
        why = f" ({error.what})"
    warnings.warn(f"cr.compile writes NumPy code here{why}: for machine code, pip install 'chainrule[cpu]'", CompileWarning, stacklevel=2)
    return False


def _native(graph: Graph, watch: _Watch, donate: Mapping[int, int], *, halves: bool) -> Executable:
    """Machine code, as it was kept or written now."""
    target = Target.of(host(), halves=halves)

    def written() -> Program:
        return emit(graph, target, donate=donate)

    key = watch.timed("emit", lambda: key_of_graph(graph, target, donate, machine_kind()))
    kept = recall(key) if key else None
    run = watch.timed("compile", lambda: recalled(graph, kept)) if kept else None
    if kept and run:
        text, arena, unplanned, called = (lambda: written().shown), kept.arena_bytes, kept.unplanned_bytes, dict[str, int]()
    else:
        program = watch.timed("emit", written)
        run = watch.timed("compile", lambda: caller(graph, program, key=key))
        shown = program.shown
        text, arena, unplanned, called = (lambda: shown), program.arena_bytes, program.unplanned_bytes, program.called_back
    stats = {"backend": "native", "passes": watch.passes, "arena_bytes": arena, "unplanned_bytes": unplanned, "called_back": called}
    if halves:
        stats["matmul_precision"] = "bfloat16" if target.halves else "float32"
    return Executable(run, text, graph, stats)


def _numpy(graph: Graph, watch: _Watch, donate: Mapping[int, int], *, arena: bool) -> Executable:
    """NumPy source; an arena stays when the call is over, and cannot lend what it does not need at the moment."""
    source = Source()
    name, plan = watch.timed("print", lambda: print_source(graph, donate, source, arena=arena))
    run = watch.timed("compile", lambda: load(source, name))
    stats = {
        "backend": "numpy",
        "passes": watch.passes,
        "arena_bytes": plan.arena_bytes,
        "unplanned_bytes": plan.unplanned_bytes,
        "called_back": dict(source.called),
    }
    return Executable(run, source.text, graph, stats)


class _Watch:
    """Runs the passes, and notes what they do and how long they take."""

    def __init__(self, check: bool) -> None:
        self.check = check
        self.passes: dict[str, dict[str, float]] = {}

    def timed(self, name: str, work: Callable[[], T]) -> T:
        began = perf_counter()
        result = work()
        entry = self.passes.setdefault(name, {"milliseconds": 0.0})
        entry["milliseconds"] += 1e3 * (perf_counter() - began)
        return result

    def rewrite(self, name: str, rewrite: Callable[[Graph], Graph], graph: Graph) -> Graph:
        after = self.timed(name, lambda: rewrite(graph))
        self.passes[name].update(before=len(graph.nodes), after=len(after.nodes))
        return after.verify() if self.check else after
