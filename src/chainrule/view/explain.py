"""Explain: why a gradient is what it is: absent, zero, NaN or infinite, exploding, vanishing, or ordinary.

What the tape, the gates' records and the caller's lines say is put into words, a table and data; the finding out is done in
`paths`, `closing`, `spoiling`, `faults` and `cuts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import Any

import numpy as np

from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, TraceError
from chainrule.core.interp import BASE, enable_grad
from chainrule.core.node import Node
from chainrule.core.primitive import functions
from chainrule.graph.ir import Graph, State
from chainrule.graph.naming import leaf_names
from chainrule.graph.trace import trace
from chainrule.tensor import Tensor
from chainrule.view import cuts
from chainrule.view.causes import Cause, gate_name
from chainrule.view.closing import cancelling, closing, narrow, steepest
from chainrule.view.faults import show
from chainrule.view.holding import callers_variables, functions_variables, parameters
from chainrule.view.paths import Edge, Sweep, norm
from chainrule.view.spoiling import first_forward, spoiling
from chainrule.view.watching import Namer, name_nodes, place_of, watching

__all__ = ["Explanation", "explain"]

VANISHING = 1e-6
EXPLODING = 1e6
"""Norm of the tensor's gradient over that of the loss's own: outside of these it vanishes or explodes."""
_ROWS = 24
_FEW = 6
_COLUMNS = ("gate", "makes", "layer", "shape", "|value|", "|gradient|", "ratio")


@dataclass(frozen=True)
class Step:
    """One gate on the way from the loss to the tensor; ``ratio`` is the gradient's norm over that before it."""

    gate: str
    name: str
    layer: str
    shape: tuple[int, ...]
    value: float | None
    gradient: float
    ratio: float
    line: str


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a gradient is what it is; prints as text, and as tables in a notebook.

    Attributes
    ----------
    kind : {"absent", "zero", "NaN", "infinite", "vanishing", "exploding", "ordinary"}
    says : str
        That in a sentence.
    causes : tuple of Cause
        The most important first.
    path : tuple of Step
        From the loss to the tensor, along the largest gradients.
    mend : str
        What to do about the first cause.
    gradient : ndarray or None
        The gradient itself.
    name : str
        What the tensor is called, '' where that is not known.
    """

    kind: str
    says: str
    causes: tuple[Cause, ...] = ()
    path: tuple[Step, ...] = ()
    mend: str = ""
    gradient: Any = None
    name: str = ""

    def __str__(self) -> str:
        lines = [f"{self.kind}: {self.says}"]
        for number, cause in enumerate(self.causes, 1):
            lines.append(f"  {number}. {cause.says}")
            if cause.elements:
                lines.append(f"     answers for {cause.elements} element{'s' * (cause.elements != 1)} of the gradient")
            mend = "" if cause.mend in (before.mend for before in self.causes[: number - 1]) else cause.mend
            details = (("in layer: ", cause.layer), ("at ", cause.line), ("mend: ", mend))
            lines += [f"     {label}{text}" for label, text in details if text]
        if self.path:
            lines += ["  from the loss back:", *(f"    {line}" for line in _aligned(self._table()))]
        return "\n".join(lines)

    __repr__ = __str__

    def _table(self) -> list[tuple[str, ...]]:
        rows = [
            (step.gate, step.name, step.layer, str(step.shape), *("" if x is None else f"{x:.3g}" for x in (step.value, step.gradient, step.ratio)))
            for step in self.path
        ]
        if len(rows) > _ROWS:
            half = _ROWS // 2
            rows = [*rows[:half], (f"... {len(rows) - 2 * half} more", *[""] * (len(_COLUMNS) - 1)), *rows[-half:]]
        return [_COLUMNS, *rows]

    def _repr_html_(self) -> str:
        found = "".join(
            f"<li>{escape(cause.says)}"
            + "".join(f"<br><code>{escape(text)}</code>" for text in (cause.layer, cause.line) if text)
            + (f"<br>mend: {escape(cause.mend)}</li>" if cause.mend else "</li>")
            for cause in self.causes
        )
        table = _html_table(self._table()) if self.path else ""
        return f"<p><b>{escape(self.kind)}</b>: {escape(self.says)}</p><ol>{found}</ol>{table}"


class Explanations(tuple[Explanation, ...]):
    """One explanation per tensor; of many together a line each is printed, and each for itself in full."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n\n".join(map(str, self)) if len(self) <= _FEW else "\n".join(_aligned(self._table(), words=(0, 1, 3)))

    __repr__ = __str__

    def _table(self) -> list[tuple[str, ...]]:
        rows = [(one.name or f"[{i}]", one.kind, _size_of(one), one.causes[0].says if one.causes else "") for i, one in enumerate(self)]
        return [("gradient of", "is", "|gradient|", "because"), *rows]

    def _repr_html_(self) -> str:
        return "<hr>".join(one._repr_html_() for one in self) if len(self) <= _FEW else _html_table(self._table())


def _size_of(one: Explanation) -> str:
    return "" if one.gradient is None else f"{norm(one.gradient):.3g}"


def _html_table(table: Sequence[Sequence[str]]) -> str:
    head, *rows = table
    cells = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>{cells}</table>"


def explain(loss: Tensor | Graph | Callable[..., Any], /, *args: Any, of: Any = None) -> Any:
    """Say why the gradient of a loss by a tensor is what it is.

    Parameters
    ----------
    loss : Tensor, Graph or callable
        A loss whose tape still stands; or a graph or function of Tensors that returns the loss, which is then run here.
    *args
        With a Tensor: the tensors, leaves or results of gates, whose gradients are asked for, or containers of them, or networks,
        for their parameters. Else: examples of the arguments.
    of : Tensor, str, network or sequence of them, optional
        With a function: whose gradients, by the name of an argument or of a variable in the function, or as a tensor from
        outside; all floating-point arguments if not given.

    Returns
    -------
    Explanation
        With ``kind``, ``causes``, ``path`` and ``mend``; a tuple of one per tensor if there are several. All that one call explains
        shares one backward pass.

    Raises
    ------
    ArgumentError
        If there is nothing to explain, or no tensor of that name.

    Notes
    -----
    A tape knows gates, shapes and what gates saved; names and leaves' values are read off the caller's variables. Lines, layers and
    all values are known too if the loss is computed inside `detect_anomaly`, or if the function is given, which is run for it, with
    all that it changes. Only then a cut (detach, `no_grad`, NumPy) can be told from others, since it leaves nothing on the tape.
    Tapes stay, and no ``.grad`` is filled.

    Examples
    --------
    >>> import chainrule as cr
    >>> def f(x):
    ...     h = cr.relu(x - 2.0)
    ...     return h.sum()
    >>> found = cr.explain(f, cr.tensor([1.0, 1.5, 3.0]))
    >>> found.kind, found.causes[0].kind, found.causes[0].elements
    ('zero', 'flat', 2)
    >>> found.causes[0].says
    'h = relu(...) passes nothing on at 2 of 3 elements: its local derivative there is 0, its input is from -1 to -0.5'
    """
    if isinstance(loss, Tensor):
        if of is not None:
            raise ArgumentError("explain: of= is for functions", mend="with a loss that is computed already pass the tensors: cr.explain(loss, x)")
        wanted = _tensors(tree.flatten(args)[0])
        if not wanted:
            raise ArgumentError("explain: no tensor is given", mend="pass the tensors whose gradients are asked for: cr.explain(loss, x)")
        view = _View(loss, [*callers_variables(), *(named for one in args for named in parameters(one))])
        return _several([view.of(x) for x in wanted])
    if not callable(loss) and not isinstance(loss, Graph):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may pass anything
        says = f"explain takes a loss or a function, not a {type(loss).__name__}"
        raise ArgumentError(says, mend="cr.explain(loss, x), or cr.explain(f, *examples)")
    return _several(_of_function(loss, args, of))


def _tensors(given: Iterable[Any]) -> list[Tensor]:
    """Tensors, and the parameters of networks."""
    return [x for one in given for x in ([one] if isinstance(one, Tensor) else [x for _, x in parameters(one)])]


def _several(found: Sequence[Explanation]) -> Any:
    """One explanation as it is, several together: which of the two follows from the arguments' values, which no type tells."""
    return found[0] if len(found) == 1 else Explanations(found)


# A function.


def _of_function(f: Graph | Callable[..., Any], examples: tuple[Any, ...], of: Any) -> list[Explanation]:
    leaves, structure = tree.flatten(examples)
    names = [x.name for x in f.parameters] if isinstance(f, Graph) else list(leaf_names(f, examples))
    arguments = [_leaf(x) for x in leaves]
    given = {name: x for name, x in zip(names, arguments, strict=True) if isinstance(x, Tensor)}
    outside = [*callers_variables(), *(() if isinstance(f, Graph) else functions_variables(f))]
    name_nodes([*outside, *given.items()])
    namer = Namer()
    call = f.run if isinstance(f, Graph) else f
    with enable_grad(), watching(namer):
        loss = call(*structure.rebuild(arguments))
    if not isinstance(loss, Tensor):
        raise ArgumentError(f"explain: the function returns a {type(loss).__name__}", mend="return the loss, one tensor")
    if of is None:
        wanted: list[Any] = [name for name, x in given.items() if x.dtype.kind == "f"]
    else:
        wanted = [x for one in (of if isinstance(of, (list, tuple)) else [of]) for x in ([one] if isinstance(one, str) else _tensors([one]))]
    if not wanted:
        raise ArgumentError("explain: the function has no floating-point argument", mend="say whose gradient: of=tensor, or of='name'")
    function = _Function(f, examples, _View(loss, [*outside, *given.items()]), {**namer.named, **given})
    return [function.of(x) for x in wanted]


def _leaf(x: Any) -> Any:
    """An argument as a leaf of its own, unless it has a history or no gradient."""
    if not isinstance(x, (Tensor, np.ndarray, np.generic, float)):
        return x
    given = functions.asarray(x)
    return given if given.dtype.kind != "f" or given.requires_grad else given.detach().requires_grad_()


class _Function:
    """A function that was run for its loss; where that leaves a question, it is traced."""

    def __init__(self, f: Graph | Callable[..., Any], examples: tuple[Any, ...], view: _View, known: dict[str, Tensor]) -> None:
        self._f, self._examples, self._view, self._known = f, examples, view, known

    @cached_property
    def _graph(self) -> Graph:
        return self._f if isinstance(self._f, Graph) else trace(self._f, *self._examples)

    def of(self, x: Any) -> Explanation:
        """A tensor, or the name of one."""
        name, tensor = (x, self._named(x)) if isinstance(x, str) else (next((name for name, one in self._known.items() if one is x), ""), x)
        found = self._view.of(tensor, name)
        if found.kind != "absent" or found.causes[0].kind in ("dtype", "freed"):
            return found
        required = tensor._node is not None and tensor._node.tags & BASE
        exact: list[Cause] = []
        try:
            exact = cuts.in_graph(self._graph, name if name in {v.name for v in self._graph.parameters} else tensor)
            exact = exact or (cuts.in_graph(self._graph, name) if name else [])
        except TraceError as error:
            says = "the function reads a traced value as numbers (NumPy, float(), item()), and what is made of numbers has no history"
            exact = [Cause(says, "numbers", line=error.where, mend="stay in tensors: cr's functions in the place of NumPy's")]
        # Only what is tracked was cut; of others it is enough that they are not.
        first = replace(found.causes[0], mend=found.causes[0].mend.removesuffix(cuts.SEEN))
        told = tuple(exact) if required and exact else (first, *(c for c in exact if c.kind != "not used" and required))
        return replace(found, causes=told, mend=told[0].mend)

    def _named(self, name: str) -> Tensor:
        if name in self._known:
            return self._known[name]
        captured = zip(self._graph.captured, self._graph.inputs[len(self._graph.parameters) :], strict=True)
        outside = {v.name: source.tensor for source, v in captured if isinstance(source, State)}
        if name not in outside:
            mend = f"choose one of {', '.join([*self._known, *outside])}, or pass the tensor itself"
            raise ArgumentError(f"explain: no tensor {name!r} in the function", mend=mend)
        return outside[name]


# A tensor.


class _View:
    """A loss with its backward pass, in which any number of tensors are looked at; ``held`` are those that the caller has names for."""

    def __init__(self, loss: Tensor, held: Iterable[tuple[str, Tensor]]) -> None:
        self._loss = loss
        # As a list, for identities hold while tensors live.
        self._held = list(held)
        name_nodes(self._held)
        self._names = {id(x): name for name, x in self._held}

    @cached_property
    def _sweep(self) -> Sweep:
        assert self._loss._node is not None
        return Sweep(self._loss._node, self._loss._value, {x._node: x._value for _, x in self._held if x._node is not None})

    def of(self, x: Tensor, name: str = "") -> Explanation:
        name = name or self._names.get(id(x), "") or place_of(x._node).name
        subject = f"the gradient of {name or 'a tensor'}, {Aval(x.shape, x.dtype)},"
        cause = cuts.of_tensors(self._loss, x)
        if cause is not None:
            return _absent(subject, cause, name)
        target, sweep = x._node, self._sweep
        assert target is not None
        if sweep.freed is not None:
            return _absent(subject, cuts.FREED, name)
        if target not in sweep.cts:
            return _absent(subject, cuts.UNCONNECTED, name)
        sweep.values.setdefault(target, x._value)
        gradient = np.asarray(sweep.cts[target])
        path = sweep.main_path(target)
        kind, says, why = _judged(sweep, target, gradient, path, subject)
        return Explanation(kind, says, tuple(why), tuple(_steps(sweep, path, name)), why[0].mend if why else "", gradient, name)


def _absent(subject: str, cause: Cause, name: str) -> Explanation:
    return Explanation("absent", f"{subject} is absent (None)", (cause,), (), cause.mend, None, name)


def _judged(sweep: Sweep, target: Node, gradient: Any, path: Sequence[Edge], subject: str) -> tuple[str, str, list[Cause]]:
    if not np.isfinite(gradient).all() or not np.isfinite(sweep.values[sweep.root]).all():
        spoilt = ~np.isfinite(gradient)
        loss = sweep.values[sweep.root]
        kind = "NaN" if np.isnan(gradient).any() or np.isnan(loss).any() else "infinite"
        parts = [f"is not finite{_count(spoilt)}"] if spoilt.any() else []
        parts += [] if np.isfinite(loss).all() else [f"comes from a loss that is {np.asarray(loss).flat[0]}"]
        return kind, f"{subject} {', and '.join(parts)}", spoiling(sweep, target)
    if not gradient.size:
        return "ordinary", f"{subject} has no elements", []
    zero = gradient == 0
    if zero.any():
        why = [*closing(sweep, target), *cancelling(sweep, target)]
        beneath = first_forward(sweep)
        return "zero", f"{subject} is 0{_count(zero)}", [*why, *([] if beneath is None else [beneath])]
    start = norm(sweep.cts[sweep.root])
    ratio = norm(gradient) / max(start, np.finfo(np.float64).tiny)
    size = f"has the norm {show(norm(gradient))}"
    beside = f"{size}, where that of the loss is {show(start)}"
    if ratio < VANISHING:
        why = [*closing(sweep, target), *cancelling(sweep, target)]
        return "vanishing", f"{subject} {beside}", why or steepest(sweep, path, smallest=True)
    if ratio > EXPLODING:
        return "exploding", f"{subject} {beside}", steepest(sweep, path, smallest=False)
    return "ordinary", f"{subject} {size}, and no element is 0, NaN or infinite", narrow(sweep, target)


def _count(where: Any) -> str:
    if not where.ndim:
        return ""
    return f" at all {where.size} elements" if where.all() else f" at {int(where.sum())} of {where.size} elements"


def _steps(sweep: Sweep, path: Sequence[Edge], name: str) -> Iterable[Step]:
    before, last = None, path[-1].source if path else sweep.root
    for node in (sweep.root, *(edge.source for edge in path)):
        if node.shape is None:
            # A gate of several results stands in the table as the result that is used.
            continue
        place, value = place_of(node), sweep.values.get(node)
        size = norm(sweep.cts[node])
        ratio = 1.0 if before is None else size / before if before else float("nan")
        gate = gate_name(node) or "(leaf)"
        known = place.name or (name if node is last else "")
        yield Step(gate, known, place.layer, node.shape, None if value is None else norm(value), size, ratio, place.code)
        before = size


def _aligned(rows: Sequence[Sequence[str]], words: Sequence[int] = (0, 1, 2, 3)) -> list[str]:
    kept = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    widths = [max(len(row[i]) for row in rows) for i in kept]
    # Words to the left, numbers to the right.
    return [
        "  ".join(row[i].ljust(width) if i in words else row[i].rjust(width) for i, width in zip(kept, widths, strict=True)).rstrip() for row in rows
    ]
