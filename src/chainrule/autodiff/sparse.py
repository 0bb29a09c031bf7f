"""Sparse Jacobians and Hessians: a plan is made once, and evaluates few products for each point.

The pattern is found, its columns or rows are coloured, and the products with the sums of each colour's unit vectors are
traced as one graph, which a call runs and reads the elements from. The pattern itself is `sparsity`'s
business, the colours are `coloring`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from chainrule.autodiff.coloring import Coloring, color
from chainrule.autodiff.dependence import Matrix, as_pattern, scipy_sparse
from chainrule.autodiff.reverse import vjp
from chainrule.autodiff.sparsity import found, gradient_of, symmetric, tangent_program
from chainrule.autodiff.vmap import apply_batched
from chainrule.core import tree
from chainrule.core.aval import DEFAULT_FLOAT, Aval, Dtype
from chainrule.core.errors import ArgumentError, ShapeError
from chainrule.core.interp import no_grad
from chainrule.core.primitive import functions
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, State
from chainrule.graph.trace import trace_with
from chainrule.tensor import Tensor

__all__ = ["SparsePlan", "sparse_hessian", "sparse_jacobian"]

Tree = Any
Index = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False, repr=False)
class SparsePlan:
    """How a sparse Jacobian or Hessian is evaluated; made by `sparse_jacobian` and `sparse_hessian`.

    Attributes
    ----------
    kind : str
        "Jacobian" or "Hessian".
    graph : Graph
        From the arguments to the products, which have an axis of colours in front.
    pattern : scipy.sparse.csr_array of bool
        What can differ from zero.
    coloring : Coloring
        Of its columns or rows.
    places : array of int
        Where each element of the pattern stands among the products.
    dtype : numpy.dtype
        Of the elements.
    outside : list of (State, array)
        Positions and masks from outside on which the pattern rests, with their values.

    Examples
    --------
    >>> import chainrule as cr
    >>> plan = cr.sparse_jacobian(lambda x: x[1:] * x[:-1], cr.zeros(4))
    >>> plan
    <sparse Jacobian of f: 3 x 4, 6 nonzeros from 2 forward products>
    >>> print(plan(cr.tensor([1.0, 2.0, 3.0, 4.0])).toarray())
    [[2. 1. 0. 0.]
     [0. 3. 2. 0.]
     [0. 0. 4. 3.]]
    """

    kind: str
    graph: Graph
    pattern: Matrix
    coloring: Coloring
    places: Index
    dtype: Dtype
    outside: list[tuple[State, Any]]

    @property
    def shape(self) -> tuple[int, int]:
        """Elements of the results (of a Hessian: of the arguments), and elements of the arguments."""
        return self.pattern.shape

    @property
    def mode(self) -> str:
        """How it is evaluated: in "forward" or "reverse" products, or "symmetric": forward products of the gradient."""
        return self.coloring.mode

    @property
    def colors(self) -> Index:
        """The colour of each column, in reverse mode of each row."""
        return self.coloring.colors

    @property
    def products(self) -> int:
        """How many products a call evaluates."""
        return self.coloring.count

    def __call__(self, *args: Tree) -> Matrix:
        """The derivative at a point.

        Parameters
        ----------
        *args : Tensor, array_like or containers of them
            Of the shapes and dtypes of the examples for which the plan was made.

        Returns
        -------
        scipy.sparse.csr_array
            Of the arguments' and results' dtype. All elements of the pattern are stored, those that happen to be zero too.

        Raises
        ------
        ArgumentError
            If the arguments differ from the examples in nesting, shape or dtype; or if positions or masks from outside,
            on which the pattern rests, have changed.
        GradientError
            If an argument or a tensor from outside is being differentiated: a SciPy array keeps no history.
        """
        given = [_plain(x, wanted, self.graph.name) for x, wanted in zip(self._leaves(args), self.graph.parameters, strict=True)]
        taken = self.graph.read()
        for x in taken:
            np.asarray(x)
        for source, value in self.outside:
            if not np.array_equal(source.tensor._value, value):
                says = f"positions or a mask, {Aval(value.shape, value.dtype)}, on which the pattern of {self.graph.name} rests, have changed"
                raise ArgumentError(says, mend="make a new plan")
        with no_grad():
            products = self.graph.apply([*given, *taken])
        return self._read([np.asarray(x) for x in products[: len(self.graph.returned)]])

    def _leaves(self, args: tuple[Tree, ...]) -> list[Any]:
        leaves, structure = tree.flatten(args)
        if structure != self.graph.arguments:
            says = f"the plan of {self.graph.name} takes arguments {tree.describe(self.graph.arguments)}, not {tree.describe(structure)}"
            raise ArgumentError(says, mend="nest them as the examples, or make a plan for them")
        return leaves

    def _read(self, products: Sequence[Any]) -> Matrix:
        """The elements, each in its place among the products."""
        indptr, indices = self.pattern.indptr.copy(), self.pattern.indices.copy()
        flat = [np.reshape(x, (self.products, -1)) for x in products]
        data = np.concatenate(flat, axis=1).reshape(-1)[self.places] if flat else np.zeros(0)
        return scipy_sparse().csr_array((data.astype(self.dtype, copy=False), indices, indptr), shape=self.shape)

    def __repr__(self) -> str:
        rows, columns = self.shape
        how = "" if self.mode == "symmetric" else f"{self.mode} "
        return (
            f"<sparse {self.kind} of {self.graph.name}: {rows:,} x {columns:,}, {self.pattern.nnz:,} nonzeros"
            f" from {self.products} {how}product{'s' * (self.products != 1)}>"
        )


def sparse_jacobian(
    f: Callable[..., Tree],
    /,
    *examples: Tree,
    mode: Literal["auto", "forward", "reverse"] = "auto",
    pattern: Any = None,
    coloring: Coloring | None = None,
) -> SparsePlan:
    """A plan that evaluates the Jacobian of ``f`` as a sparse matrix, in as few products as its structure allows.

    Parameters
    ----------
    f : callable
        A function of Tensors, or nested containers of them, with such a result.
    *examples : Tensor, array_like or containers of them
        Real floating-point arguments of the shapes and dtypes with which the plan will be called; their values do not matter.
    mode : {"auto", "forward", "reverse"}
        Whether to evaluate columns, rows, or what takes fewer products.
    pattern : scipy.sparse array or array_like, optional
        What can differ from zero, where that is known better than `jacobian_sparsity` finds it. What is not in it is taken for zero.
    coloring : Coloring, optional
        Of the pattern; that of `color` if not given. Its mode takes the place of ``mode``.

    Returns
    -------
    SparsePlan
        ``plan(*args)`` is a `scipy.sparse.csr_array` with a row for each element of the results, and a column for each of the
        arguments, one after another in the order in which containers are walked. The plan holds for any point.

    Raises
    ------
    MissingExtraError
        If SciPy is not installed.
    GradientError
        If an argument or a result is not real floating point.
    ArgumentError
        If the Jacobian is not sparse, or for another mode.
    ShapeError
        If a pattern or colouring is of another shape.

    Notes
    -----
    The function is traced when the plan is made, its products for all colours as one graph. Parameters and other tensors
    that it takes from outside are read at each call; what it assigns to them is not assigned. Every call keeps
    as many tangents as there are products.

    Examples
    --------
    >>> import chainrule as cr
    >>> plan = cr.sparse_jacobian(lambda x: cr.diff(x) ** 2, cr.zeros(1000)); plan
    <sparse Jacobian of f: 999 x 1,000, 1,998 nonzeros from 2 forward products>
    >>> plan(cr.arange(1000.0)).sum()
    np.float32(0.0)
    """
    if mode not in ("auto", "forward", "reverse"):
        raise ArgumentError(f"sparse_jacobian: mode={mode!r}", mend="choose 'auto', 'forward' or 'reverse'")
    program = tangent_program(f, examples)
    return _plan("Jacobian", f, examples, program, mode, pattern, coloring)


def sparse_hessian(f: Callable[..., Any], /, *examples: Tree, pattern: Any = None, coloring: Coloring | None = None) -> SparsePlan:
    """A plan that evaluates the Hessian of a scalar function as a sparse matrix, in few products with vectors.

    Parameters
    ----------
    f : callable
        Returns a scalar Tensor.
    *examples : Tensor, array_like or containers of them
        Real floating-point arguments of the shapes and dtypes with which the plan will be called; their values do not matter.
    pattern : scipy.sparse array or array_like, optional
        What can differ from zero, symmetric, where that is known better than `hessian_sparsity` finds it.
    coloring : Coloring, optional
        Of the pattern; the symmetric one of `color` if not given.

    Returns
    -------
    SparsePlan
        ``plan(*args)`` is a `scipy.sparse.csr_array`, exactly symmetric, with a row and a column for each element of the
        arguments. The plan holds for any point.

    Raises
    ------
    MissingExtraError
        If SciPy is not installed.
    GradientError
        If an argument is not real floating point, or the result is not a scalar.
    ArgumentError
        If the Hessian is not sparse.
    ShapeError
        If a pattern or colouring is of another shape.

    Notes
    -----
    The products are forward derivatives of the gradient. Of two elements that mirror each other only the one that is alone in its
    product is read.

    Examples
    --------
    >>> import chainrule as cr
    >>> def rosenbrock(x):
    ...     return cr.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)
    >>> plan = cr.sparse_hessian(rosenbrock, cr.zeros(128)); plan
    <sparse Hessian of rosenbrock: 128 x 128, 382 nonzeros from 3 products>
    >>> print(plan(cr.ones(128)).toarray()[:3, :3])
    [[ 802. -400.    0.]
     [-400. 1002. -400.]
     [   0. -400. 1002.]]
    """
    gradient = gradient_of(f, examples)
    return _plan("Hessian", gradient, examples, tangent_program(gradient, examples), "symmetric", pattern, coloring)


def _plan(
    kind: str, f: Callable[..., Tree], examples: tuple[Tree, ...], program: Graph, mode: Any, pattern: Any, coloring: Coloring | None
) -> SparsePlan:
    inputs = program.parameters[: len(program.parameters) // 2]
    shape = (sum(x.size for x in program.returned), sum(x.size for x in inputs))
    outside: list[tuple[State, Any]] = []
    if pattern is None:
        pattern, outside = found(program)
        pattern = symmetric(pattern) if kind == "Hessian" else pattern
    else:
        pattern = as_pattern(pattern)
        if pattern.shape != shape:
            raise ShapeError(f"a pattern of shape {pattern.shape} for the {kind} of {program.name}, {shape}", mend="give one of its shape")
    if coloring is None:
        coloring = color(pattern, mode)
    elif len(coloring.colors) != shape[coloring.mode != "reverse"] or (coloring.mode == "symmetric") != (kind == "Hessian"):
        says = f"a {coloring.mode} colouring of {len(coloring.colors)} for the {kind} of {program.name}, {shape}"
        raise ShapeError(says, mend="give the colouring that cr.color makes of the pattern")
    if coloring.mode == "reverse":
        graph = _products(program.name, _cotangent_program(f, examples, program), inputs, program.returned, coloring, examples)
    else:
        graph = _products(program.name, program, inputs, inputs, coloring, examples)
    avals = [x.aval for x in (*inputs, *program.returned)]
    dtype = np.result_type(*(aval.dtype for aval in avals)) if avals else DEFAULT_FLOAT
    return SparsePlan(kind, graph, pattern, coloring, _PLACES[coloring.mode](pattern, coloring), dtype, outside)


def _cotangent_program(f: Callable[..., Tree], examples: tuple[Tree, ...], program: Graph) -> Graph:
    """The graph of ``(arguments, cotangents of the results) -> cotangents of the arguments``."""
    _, structure = tree.flatten((examples, program.rebuild(program.returned)))

    def cotangents(primals: tuple[Tree, ...], ct: Tree) -> Tree:
        return vjp(f, *primals)[1](ct)

    cotangents.__name__ = program.name
    inputs = program.parameters[: len(program.parameters) // 2]
    graph, _ = trace_with(cotangents, [x.aval for x in (*inputs, *program.returned)], structure)
    return graph


def _products(
    name: str, program: Graph, inputs: Sequence[Variable], directions: Sequence[Variable], coloring: Coloring, examples: tuple[Tree, ...]
) -> Graph:
    """The graph from the arguments to the products with the sum of each colour's unit vectors, all colours at once."""
    sizes = np.cumsum([0, *(x.size for x in directions)])
    seeds = [_seeds(coloring, first, x) for first, x in zip(sizes, directions)]

    def products(*args: Tree) -> list[Tensor]:
        if not coloring.count:
            return []
        taken = program.read()
        batched = [False] * len(inputs) + [True] * len(directions) + [False] * len(taken)
        outs, which = apply_batched(program, batched, [*tree.leaves(args), *map(functions.asarray, seeds), *taken])
        outs = outs[: len(program.returned)]
        return [x if b else functions.broadcast_to(x, (coloring.count, *x.shape)) for x, b in zip(outs, which)]

    products.__name__ = name
    graph, _ = trace_with(products, [x.aval for x in inputs], tree.flatten(examples)[1], names=[x.name for x in inputs])
    return graph


def _seeds(coloring: Coloring, first: int, x: Variable) -> Any:
    """A direction for each colour, in one of the arguments or results."""
    seeds = np.zeros((coloring.count, x.size), x.dtype)
    own = coloring.colors[first : first + x.size]
    filled = np.flatnonzero(own >= 0)
    seeds[own[filled], filled] = 1
    return seeds.reshape(coloring.count, *x.shape)


def _plain(given: Any, wanted: Variable, name: str) -> Any:
    """An argument as a Tensor without history."""
    x = functions.asarray(given)
    if x.shape == wanted.shape and not hasattr(given, "dtype"):
        x = functions.asarray(given, dtype=wanted.dtype)
    if x.shape != wanted.shape or x.dtype != wanted.dtype:
        says = f"the plan of {name} was made for {wanted.name} {wanted.aval}, not {Aval(x.shape, x.dtype)}"
        raise ArgumentError(says, mend="convert it, or make a plan for arguments like it")
    return functions.asarray(np.asarray(x))


# Where each element of the pattern stands among the products, taken as a matrix with a row per colour.


def _rows_of(pattern: Matrix) -> Index:
    return np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.indptr))


def _in_forward(pattern: Matrix, coloring: Coloring) -> Index:
    return coloring.colors[pattern.indices] * pattern.shape[0] + _rows_of(pattern)


def _in_reverse(pattern: Matrix, coloring: Coloring) -> Index:
    return coloring.colors[_rows_of(pattern)] * pattern.shape[1] + pattern.indices


def _in_symmetric(pattern: Matrix, coloring: Coloring) -> Index:
    """Of (i, j) and (j, i) with i < j: in row i if j is the only one of its colour there, else in row j."""
    size, colors = pattern.shape[0], coloring.colors
    rows, cols = _rows_of(pattern), pattern.indices.astype(np.intp)
    groups, counts = np.unique(colors[cols] * size + rows, return_counts=True)
    low, high = np.minimum(rows, cols), np.maximum(rows, cols)
    place = colors[high] * size + low
    alone = counts[np.searchsorted(groups, place)] == 1
    return np.where(alone, place, colors[low] * size + high)


_PLACES: dict[str, Callable[[Matrix, Coloring], Index]] = {"forward": _in_forward, "reverse": _in_reverse, "symmetric": _in_symmetric}
