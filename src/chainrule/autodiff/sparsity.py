"""Which elements of a derivative can differ from zero: found in the graph of the derivative's products.

The product of a Jacobian with a vector is traced. It is linear in the vector, so what an output reads of the vector is
the sparsity, and every rule of differentiation, a custom one too, is followed as it will be evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chainrule.autodiff.dependence import Matrix, dependence
from chainrule.autodiff.forward import jvp
from chainrule.autodiff.reverse import grad
from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import GradientError
from chainrule.core.primitive import functions
from chainrule.graph.ir import Graph, State
from chainrule.graph.naming import leaf_names
from chainrule.graph.trace import trace_with

__all__ = ["hessian_sparsity", "jacobian_sparsity"]

# Containers of Tensors have no narrower type.
Tree = Any


def jacobian_sparsity(f: Callable[..., Tree], /, *examples: Tree) -> Matrix:
    """Where the Jacobian of ``f`` can differ from zero, whatever the arguments' values.

    Parameters
    ----------
    f : callable
        A function of Tensors, or nested containers of them, with such a result.
    *examples : Tensor, array_like or containers of them
        Real floating-point arguments of the shapes and dtypes that are meant; their values do not matter.

    Returns
    -------
    scipy.sparse.csr_array of bool, shape (m, n)
        A row for each element of the results and a column for each element of the arguments, one after another in the order
        in which containers are walked.

    Raises
    ------
    MissingExtraError
        If SciPy is not installed.
    GradientError
        If an argument or a result is not real floating point.
    ArgumentError
        If there are so many dependences that the Jacobian is not sparse.

    Notes
    -----
    Nothing that can differ from zero is missing. What the function's own constants make zero is left out: an element that
    a fixed position does not read, or that is multiplied by a constant 0. Positions, masks and labels in integer or boolean
    tensors from outside count as constants, with their values of now. A gate without a rule of its own makes every
    output depend on every input.

    Examples
    --------
    >>> import chainrule as cr
    >>> pattern = cr.jacobian_sparsity(lambda x: x[1:] * x[:-1], cr.zeros(4))
    >>> print(pattern.astype(int).toarray())
    [[1 1 0 0]
     [0 1 1 0]
     [0 0 1 1]]
    """
    return found(tangent_program(f, examples))[0]


def hessian_sparsity(f: Callable[..., Any], /, *examples: Tree) -> Matrix:
    """Where the Hessian of a scalar function can differ from zero, whatever the arguments' values.

    Parameters
    ----------
    f : callable
        Returns a scalar Tensor.
    *examples : Tensor, array_like or containers of them
        Real floating-point arguments, as for `jacobian_sparsity`.

    Returns
    -------
    scipy.sparse.csr_array of bool, shape (n, n)
        Symmetric; a row and a column for each element of the arguments.

    Raises
    ------
    MissingExtraError
        If SciPy is not installed.
    GradientError
        If an argument is not real floating point, or the result is not a scalar.
    ArgumentError
        If there are so many dependences that the Hessian is not sparse.

    Notes
    -----
    The sparsity of the gradient's Jacobian. A Hessian is symmetric, so an element that the gradient shows to be zero on one side of the
    diagonal is zero on the other.

    Examples
    --------
    >>> import chainrule as cr
    >>> pattern = cr.hessian_sparsity(lambda x: cr.sum(x[1:] * x[:-1] ** 2), cr.zeros(4))
    >>> print(pattern.astype(int).toarray())
    [[1 1 0 0]
     [1 1 1 0]
     [0 1 1 1]
     [0 0 1 0]]
    """
    return symmetric(found(tangent_program(gradient_of(f, examples), examples))[0])


def gradient_of(f: Callable[..., Any], examples: tuple[Tree, ...]) -> Callable[..., Any]:
    """The gradient by all arguments."""
    return grad(f, argnums=tuple(range(len(examples))))


def symmetric(pattern: Matrix) -> Matrix:
    """What is there on both sides of the diagonal."""
    return pattern.multiply(pattern.T).tocsr()


def tangent_program(f: Callable[..., Tree], examples: tuple[Tree, ...]) -> Graph:
    """The graph of ``(arguments, tangents) -> tangents of the results``: the product with the Jacobian.

    Raises
    ------
    GradientError
        If an argument or a result is not real floating point.
    """
    leaves, structure = tree.flatten((examples, examples))
    avals = [Aval(x.shape, x.dtype) for x in map(functions.asarray, leaves)]

    def tangents(primals: tuple[Tree, ...], directions: tuple[Tree, ...]) -> Tree:
        return jvp(f, primals, directions)[1]

    tangents.__name__ = str(getattr(f, "__name__", "f"))
    names = leaf_names(f, examples)
    graph, _ = trace_with(tangents, avals, structure, names=[*names, *(f"d_{name}" for name in names)])
    wrong = next((x for x in graph.returned if x.dtype.kind != "f"), None)
    if wrong is not None:
        says = f"a result {wrong.aval} of {graph.name} has no derivative"
        raise GradientError(says, mend="return real floating-point tensors only, or leave out what else is returned")
    return graph


def found(program: Graph) -> tuple[Matrix, list[tuple[State, Any]]]:
    """How the results of such a graph depend on the tangents, and on what from outside, of which value, this rests."""
    return dependence(program, program.parameters[len(program.parameters) // 2 :])
