"""Control flow that depends on values: choose, repeat, fold.

Here a choice is made as soon as its condition is known and loops run as Python runs them, each step recorded
on the tape, so gradients of any order and in both modes follow what was done. The rules about what a
loop carries are those that a traced loop needs, and hold here already: a program that runs will trace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chainrule.core import tree
from chainrule.core.errors import ArgumentError, DtypeError, ShapeError
from chainrule.core.interp import no_grad
from chainrule.core.primitive import public
from chainrule.ops.filled import zeros
from chainrule.ops.gate import alias, describe, lift
from chainrule.ops.joining import stack, unstack
from chainrule.tensor import Tensor

__all__ = ["cond", "scan", "while_loop"]

# Containers of Tensors have no narrower type.
Tree = Any


def _truth(name: str, condition: Any) -> bool:
    value = lift(condition)
    if value.shape != ():
        raise ShapeError(
            f"{name}: a condition of shape {value.shape}",
            mend="reduce it to one truth value with cr.all or cr.any; cr.where chooses element by element",
        )
    if value.dtype.kind != "b":
        raise DtypeError(f"{name}: a condition of dtype {value.dtype}", mend="compare: x > 0, or x != 0")
    return bool(value)


def _named(x: Any) -> Any:
    """A Tensor with a name of its own: neither a function nor its caller can rebind the other's."""
    return alias(lift(x))


def _lifted(container: Tree) -> Tree:
    return tree.map(_named, container)


def _carried(name: str, before: Tree, after: Tree) -> Tree:
    """``after`` as Tensors, if it is what ``before`` was in everything but its values."""
    old, structure = tree.flatten(before)
    new, found = tree.flatten(after)
    if found != structure:
        raise ArgumentError(
            f"{name}: the body was given a carry of structure {tree.describe(structure)} and returned {tree.describe(found)}",
            mend="return containers nested in the same way, with the same keys",
        )
    new = [_named(leaf) for leaf in new]
    for position, (was, now) in enumerate(zip(old, new, strict=True)):
        what = f"{name}: part {position} of the carry was {describe(was)} and the body returned {describe(now)}"
        if now.shape != was.shape:
            raise ShapeError(what, mend="a carry keeps its shape: give init the final shape, or collect what grows as scan's second result")
        if now.dtype != was.dtype:
            raise DtypeError(what, mend="a carry keeps its dtype: give init that dtype, or convert in the body with astype")
    return structure.rebuild(new)


@public
def cond(pred: Tensor | bool, true_fn: Callable[..., Tree], false_fn: Callable[..., Tree], /, *operands: Tree) -> Tree:
    """The result of one of two functions; only that one is called.

    Parameters
    ----------
    pred : Tensor or bool
        A single truth value.
    true_fn, false_fn : callable
        Called with the operands. In a traced program both must return the same structure, shapes and dtypes.
    *operands : Tensor, array_like or containers of them

    Returns
    -------
    Tensor or container
        ``true_fn(*operands)`` or ``false_fn(*operands)``.

    Raises
    ------
    ShapeError, DtypeError
        If ``pred`` is not one truth value.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor(-3.0, requires_grad=True)
    >>> cr.cond(x > 0, lambda x: x, lambda x: 0.25 * x, x).backward()
    >>> x.grad
    tensor(0.25)
    """
    chosen = true_fn if _truth("cond", pred) else false_fn
    return _lifted(chosen(*(_lifted(operand) for operand in operands)))


@public
def while_loop(cond_fn: Callable[[Tree], Tensor | bool], body_fn: Callable[[Tree], Tree], init: Tree, /) -> Tree:
    """Apply ``body_fn`` again and again, as long as ``cond_fn`` holds.

    Parameters
    ----------
    cond_fn : callable
        Carry to a single truth value.
    body_fn : callable
        Carry to the next carry, of the same structure, shapes and dtypes.
    init : Tensor, array_like or container of them
        The first carry.

    Returns
    -------
    Tensor or container
        The first carry for which the condition does not hold.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        If the body changes the carry's structure, a shape or a dtype, or a condition is not one truth value.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor(3.0, requires_grad=True)
    >>> y = cr.while_loop(lambda y: y < 20, lambda y: y * x, x)
    >>> y.backward(); y.detach(), x.grad
    (tensor(27.), tensor(27.))
    """
    carry = _lifted(init)
    while _truth("while_loop", cond_fn(carry)):
        carry = _carried("while_loop", carry, body_fn(carry))
    return carry


@public
def scan(
    f: Callable[[Tree, Tree], tuple[Tree, Tree]], init: Tree, xs: Tree = None, /, *, length: int | None = None, reverse: bool = False
) -> tuple[Tree, Tree]:
    """Go through slices along the first axis, carrying something on and collecting something from each.

    Parameters
    ----------
    f : callable
        ``f(carry, x)`` returns ``(carry, y)``, the carry of the same structure, shapes and dtypes.
    init : Tensor, array_like or container of them
        The first carry.
    xs : Tensor, array_like or container of them, optional
        Everything in it has the same size on its first axis; ``f`` receives one slice of each, or None without ``xs``.
    length : int, optional
        Number of steps; needed without ``xs`` only.
    reverse : bool
        Begin with the last slice; results are stacked in the order of the slices all the same.

    Returns
    -------
    carry : Tensor or container
        The last one.
    ys : Tensor or container
        The collected results, stacked along a new first axis.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        If the number of steps is not known or not one, if ``f`` does not return a pair, or if the carry changes
        its structure, a shape or a dtype.

    Notes
    -----
    For no steps at all, ``f`` is called once on zeros, to see what it collects.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> last, sums = cr.scan(lambda total, v: (total + v, total + v), 0.0, x)
    >>> sums.detach()
    tensor([1., 3., 6.])
    >>> sums.sum().backward(); x.grad
    tensor([3., 2., 1.])
    """
    carry, xs = _lifted(init), _lifted(xs)
    slices, structure = tree.flatten(xs)
    steps = _steps(slices, length)
    if not steps:
        return carry, _collects_nothing(f, carry, xs)
    rows = list(zip(*(unstack(leaf) for leaf in slices), strict=True)) or [()] * steps
    collected: list[list[Any]] = []
    shape_of_y = None
    for row in reversed(rows) if reverse else rows:
        carry, y = _step(f, carry, structure.rebuild(row))
        leaves, found = tree.flatten(y)
        if shape_of_y is not None and found != shape_of_y:
            says = f"scan: f collected {tree.describe(shape_of_y)} in one step and {tree.describe(found)} in another"
            raise ArgumentError(says, mend="collect containers nested in the same way in every step")
        shape_of_y = found
        collected.append([lift(leaf) for leaf in leaves])
    assert shape_of_y is not None
    columns = zip(*(reversed(collected) if reverse else collected), strict=True)
    return carry, shape_of_y.rebuild(stack(column) for column in columns)


def _steps(slices: list[Any], length: int | None) -> int:
    if any(not leaf.shape for leaf in slices):
        raise ShapeError(
            "scan: a part of xs has no axes to go along", mend="give every part of xs a first axis; what is the same in every step needs not go in"
        )
    sizes = {leaf.shape[0] for leaf in slices} | ({length} if length is not None else set())
    if len(sizes) != 1:
        known = ", ".join(map(describe, slices))
        raise ArgumentError(
            f"scan: no one number of steps from xs ({known}) and length={length}", mend="give parts of one length, or length= without xs"
        )
    (steps,) = sizes
    if steps < 0:
        raise ArgumentError(f"scan: length={length}", mend="a number of steps is 0 or more")
    return steps


def _step(f: Callable[[Tree, Tree], Any], carry: Tree, x: Tree) -> tuple[Tree, Tree]:
    result = f(carry, x)
    if not isinstance(result, tuple) or len(result) != 2:
        raise ArgumentError(f"scan: f returned {type(result).__name__} and not a pair", mend="return (carry, y); y may be None")
    after, y = result
    return _carried("scan", carry, after), y


def _collects_nothing(f: Callable[[Tree, Tree], Any], carry: Tree, xs: Tree) -> Tree:
    with no_grad():
        _, y = _step(f, carry, tree.map(lambda leaf: zeros(leaf.shape[1:], dtype=leaf.dtype), xs))
    return tree.map(lambda leaf: zeros((0, *leaf.shape), dtype=leaf.dtype), _lifted(y))
