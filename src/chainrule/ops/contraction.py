"""Contractions: sums of products over axes that tensors share.

`einsum` takes the subscripts apart once for given shapes. What concerns one operand alone (a repeated
index, an index that is only summed, an axis of size 1 that is repeated) is done by gates of its own; what
remains is a product in which every index stands in two places at least, and so are its derivatives: for
each operand the same kind of product of the cotangent with the others. Two operands become one stack of
matrix products; more of them are contracted pair by pair in the cheapest order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import index
from string import ascii_letters
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, Shape, normalize_axis, promote
from chainrule.core.errors import ArgumentError, AxisError, DtypeError, ShapeError
from chainrule.core.nest import Array, Nest
from chainrule.core.primitive import Primitive, Refusal, Sample, functions, public
from chainrule.ops.gate import alias, describe, gate, operands
from chainrule.ops.movement import permute_dims, reshape
from chainrule.ops.product import matmul
from chainrule.ops.structure import diagonal
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["einsum", "tensordot"]

if TYPE_CHECKING:
    import numpy.typing as npt

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Own:
    """What is done to one operand alone, in this order: sizes after dropping axes, diagonals taken, axes summed."""

    shape: Shape | None
    diagonals: tuple[tuple[int, int], ...]
    summed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """How subscripts are evaluated for given shapes: each operand alone, then their common product."""

    own: tuple[_Own, ...]
    subscripts: str


@lru_cache(maxsize=4096)
def _plan(subscripts: str, shapes: tuple[Shape, ...]) -> _Plan:
    terms, out = _terms(subscripts, shapes)
    sizes = _sizes(subscripts, terms, shapes)
    labelled = [zip(term, shape, strict=True) for term, shape in zip(terms, shapes, strict=True)]
    kept = [[(label, size) for label, size in pairs if size == sizes[label]] for pairs in labelled]
    uses = [{label for label, _ in term} for term in kept]
    own: list[_Own] = []
    specs: list[str] = []
    for place, (term, shape) in enumerate(zip(kept, shapes, strict=True)):
        labels = [label for label, _ in term]
        pairs: list[tuple[int, int]] = []
        while len(set(labels)) < len(labels):
            label = next(label for label in labels if labels.count(label) > 1)
            first = labels.index(label)
            second = labels.index(label, first + 1)
            pairs.append((first, second))
            labels = [other for axis, other in enumerate(labels) if axis not in (first, second)] + [label]
        elsewhere = set(out).union(*(used for other, used in enumerate(uses) if other != place))
        summed = tuple(axis for axis, label in enumerate(labels) if label not in elsewhere)
        own.append(_Own(None if len(term) == len(shape) else tuple(size for _, size in term), tuple(pairs), summed))
        specs.append("".join(label for label in labels if label in elsewhere))
    return _Plan(tuple(own), f"{','.join(specs)}->{out}")


def _terms(subscripts: str, shapes: tuple[Shape, ...]) -> tuple[list[str], str]:
    """One letter per axis of every operand and of the output; an ellipsis becomes letters that are free."""
    left, arrow, right = subscripts.partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise ArgumentError(f"einsum({subscripts!r}) has {len(terms)} terms for {len(shapes)} operands", mend="write one term per operand")
    for term in (*terms, right):
        letters = term.replace("...", "", 1)
        strange = [letter for letter in letters if letter not in ascii_letters]
        if strange:
            raise ArgumentError(f"einsum({subscripts!r}): {strange[0]!r} is no index", mend="use letters, '...', ',' and '->'")
    lengths = [len(shape) - len(term.replace("...", "")) for term, shape in zip(terms, shapes, strict=True)]
    for term, shape, more in zip(terms, shapes, lengths, strict=True):
        if more < 0 or (more > 0 and "..." not in term):
            raise ShapeError(f"einsum({subscripts!r}): the term {term!r} does not fit shape {shape}", mend="write one letter per axis, or '...'")
    free = [letter for letter in reversed(ascii_letters) if letter not in subscripts]
    widest = max((more for term, more in zip(terms, lengths, strict=True) if "..." in term), default=0)
    if widest > len(free):
        raise ArgumentError(f"einsum({subscripts!r}): more than {len(ascii_letters)} indices", mend="contract in several steps, or reshape first")
    dots = "".join(free[:widest])
    if not arrow:
        single = sorted(letter for letter in set(left) - set(".,") if left.count(letter) == 1)
        right = ("..." if "..." in left else "") + "".join(single)
    elif widest and "..." not in right:
        raise ArgumentError(f"einsum({subscripts!r}): the axes of '...' are missing from the output", mend="write '...' there too")
    given = [letter for letter in right if letter != "."]
    for letter in given:
        if letter not in left or given.count(letter) > 1:
            says = f"einsum({subscripts!r}): the output's index {letter!r} must stand in the operands, and in the output once"
            raise ArgumentError(says, mend="name axes of the operands only, each once")
    full = [term.replace("...", dots[widest - more :] if more else "") for term, more in zip(terms, lengths, strict=True)]
    return full, right.replace("...", dots)


def _sizes(subscripts: str, terms: Sequence[str], shapes: Sequence[Shape]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for label, size in zip(term, shape, strict=True):
            known = sizes.setdefault(label, size)
            if known != size and 1 not in (known, size):
                says = f"einsum({subscripts!r}): the index {label!r} has sizes {known} and {size} in shapes {', '.join(map(str, shapes))}"
                raise ShapeError(says, mend="make the sizes equal or 1, or name the axes differently")
            if known == 1:
                sizes[label] = size
    return sizes


def _split(subscripts: str) -> tuple[list[str], str]:
    left, _, out = subscripts.partition("->")
    return left.split(","), out


def _einsum_aval(*xs: Aval, subscripts: str) -> Aval:
    terms, out = _split(subscripts)
    sizes = _sizes(subscripts, terms, [x.shape for x in xs])
    return Aval(tuple(sizes[label] for label in out), promote(*(x.dtype for x in xs)))


def _einsum_cost(*xs: Aval, subscripts: str) -> int:
    """Each pair takes a product for every choice of its indices."""
    terms, _ = _split(subscripts)
    sizes = _sizes(subscripts, terms, [x.shape for x in xs])
    pairs = [step.partition("->")[0] for _, _, step in _order(subscripts, tuple(x.shape for x in xs))]
    return sum(math.prod(sizes[label] for label in set(pair) - {","}) for pair in pairs)


def _contract(*xs: Any, subscripts: str) -> Any:
    values = list(xs)
    for first, second, step in _order(subscripts, tuple(x.shape for x in xs)):
        right = values.pop(second)
        values.append(_pair(step)(values.pop(first), right))
    return values[0] if values[0].shape else values[0][()]


def _order(subscripts: str, shapes: tuple[Shape, ...]) -> tuple[tuple[int, int, str], ...]:
    return ((0, 1, subscripts),) if len(shapes) == 2 else _steps(subscripts, shapes)


@lru_cache(maxsize=1024)
def _steps(subscripts: str, shapes: tuple[Shape, ...]) -> tuple[tuple[int, int, str], ...]:
    """Pairs to contract, first before second: each is taken out of the list and the result appended."""
    terms, out = _split(subscripts)
    path = np.einsum_path(subscripts, *(np.broadcast_to(0.0, shape) for shape in shapes), optimize="optimal" if len(shapes) < 5 else "greedy")[0][1:]
    steps: list[tuple[int, int, str]] = []
    for places in path:
        chosen = sorted(places)
        while len(chosen) > 1:
            first, second = chosen[:2]
            b, a = terms.pop(second), terms.pop(first)
            last = not terms
            needed = set(out).union(*terms)
            result = out if last else "".join(label for label in dict.fromkeys(a + b) if label in needed)
            steps.append((first, second, f"{a},{b}->{result}"))
            terms.append(result)
            chosen = [place - 2 for place in chosen[2:]] + [len(terms) - 1]
    return tuple(steps)


@lru_cache(maxsize=1024)
def _pair(subscripts: str) -> Any:
    """The product of two arrays as matrix products, as a function of the arrays."""
    (a, b), out = _split(subscripts)
    stack = [label for label in out if label in a and label in b]
    rows = [label for label in out if label in a and label not in b]
    columns = [label for label in out if label in b and label not in a]
    summed = [label for label in a if label not in out]
    order1 = tuple(a.index(label) for label in stack + rows + summed)
    order2 = tuple(b.index(label) for label in stack + summed + columns)
    made = stack + rows + columns
    last = tuple(made.index(label) for label in out)
    s, r, k = len(stack), len(rows), len(summed)

    def multiply(x1: Any, x2: Any) -> Any:
        x1 = np.transpose(x1, order1)
        x2 = np.transpose(x2, order2)
        return np.transpose(x1.reshape(x1.shape + (1,) * len(columns)) * x2.reshape((*x2.shape[:s], *(1,) * r, *x2.shape[s:])), last)

    def contract(x1: Any, x2: Any) -> Any:
        x1 = np.transpose(x1, order1)
        x2 = np.transpose(x2, order2)
        lead, shape1, shape2 = x1.shape[:s], x1.shape[s : s + r], x2.shape[s + k :]
        count = math.prod(x2.shape[s : s + k])
        x1 = x1.reshape((*lead, math.prod(shape1), count))
        x2 = x2.reshape((*lead, count, math.prod(shape2)))
        return np.transpose((np.matmul(x1, x2) if s else x1.dot(x2)).reshape((*lead, *shape1, *shape2)), last)

    return contract if k else multiply


def _einsum_vjp(ct: Any, to: Sequence[Any], xs: Sequence[Any], subscripts: str) -> tuple[Any, ...]:
    terms, out = _split(subscripts)

    def share(place: int) -> Any:
        others = [other for other in range(len(xs)) if other != place]
        spec = f"{','.join((out, *(terms[other] for other in others)))}->{terms[place]}"
        return bind(EINSUM, (ct, *(xs[other] for other in others)), {"subscripts": spec})

    return tuple(None if want is None else share(place) for place, want in enumerate(to))


def _einsum_batch(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    terms, out = _split(params["subscripts"])
    new = next((letter for letter in ascii_letters if letter not in params["subscripts"]), None)
    if new is None:
        raise ArgumentError(f"einsum({params['subscripts']!r}): no letter is left for the batch axis", mend="contract in several steps")
    spec = ",".join(new + term if b else term for term, b in zip(terms, batched, strict=True))
    return bind(primitive, inputs, {"subscripts": f"{spec}->{new}{out}"})


_EINSUM_SAMPLES: tuple[tuple[str, tuple[Shape, ...]], ...] = (
    ("ij,jk->ik", ((2, 3), (3, 2))),
    ("bij,bjk->bik", ((2, 2, 3), (2, 3, 2))),
    ("bnd,dm", ((2, 2, 3), (3, 2))),
    ("...ij,...kj->k...i", ((2, 2, 3), (1, 2, 3))),
    ("i,j,ij->", ((2,), (3,), (2, 3))),
    ("ii", ((3, 3),)),
    ("iij->ji", ((2, 2, 3),)),
    ("ij,kk->j", ((2, 3), (2, 2))),
    ("ij,jk->ik", ((2, 1), (3, 2))),
    ("i,i->i", ((3,), (3,))),
    ("a,b->ba", ((2,), (3,))),
    (",i", ((), (3,))),
    ("ab,bc,cd,de->ae", ((2, 2), (2, 3), (3, 2), (2, 1))),
    ("ij,jk->ik", ((2, 0), (0, 3))),
)


def _einsum_loops(w: Nest, out: Array, *xs: Array, subscripts: str) -> None:
    terms, result = subscripts.split("->")
    labels = terms.split(",")
    sizes = {label: size for term, x in zip(labels, xs, strict=True) for label, size in zip(term, x.shape, strict=True)}
    summed = [label for label in sizes if label not in result]
    with w.share(out.shape) as at:
        total = w.variable(0, out.dtype)
        with w.each([sizes[label] for label in summed]) as inner:
            where = dict(zip((*result, *summed), (*at, *inner), strict=True))
            factors = [w.load(x, [where[label] for label in term]) for term, x in zip(labels, xs, strict=True)]
            w.assign(total, total + math.prod(factors[1:], start=factors[0]))
        w.store(out, at, total)


EINSUM = Primitive(
    name="einsum",
    inputs=("*xs",),
    aval=_einsum_aval,
    cost=_einsum_cost,
    eval=_contract,
    multilinear=True,
    vjp=_einsum_vjp,
    batch=_einsum_batch,
    loops=_einsum_loops,
    kernel="gemm",
    onnx="Einsum",
    samples=lambda rng: [Sample((subscripts, *(rng.normal(size=shape) for shape in shapes))) for subscripts, shapes in _EINSUM_SAMPLES],
    refuses=lambda: [
        Refusal(("ij,jk", np.ones((2, 3))), ArgumentError, "2 terms for 1 operands"),
        Refusal(("ij,jk", np.ones((2, 3)), np.ones((2, 3))), ShapeError, "sizes 3 and 2"),
        Refusal(("ij", np.ones(3)), ShapeError, "does not fit shape (3,)"),
        Refusal(("i->j", np.ones(3)), ArgumentError, "'j' must stand in the operands"),
        Refusal(("i->ii", np.ones(3)), ArgumentError, "once"),
        Refusal(("i$", np.ones((3, 3))), ArgumentError, "'$' is no index"),
        Refusal(("...i->i", np.ones((2, 3))), ArgumentError, "missing from the output"),
        Refusal(("i,i", np.ones(2, bool), np.ones(2, bool)), DtypeError, "takes numeric"),
    ],
)


@gate(EINSUM)
def einsum(subscripts: str | Tensor | npt.ArrayLike, /, *xs: Any) -> Tensor:
    """Sum of products by Einstein's convention, in all of NumPy's forms.

    Parameters
    ----------
    subscripts : str
        A term of letters for each operand, separated by commas, and perhaps ``->`` and the output's. Without
        it the output has the letters that stand once, in alphabetical order. A letter that is repeated in a
        term takes the diagonal; ``...`` stands for axes that broadcast. Or, as in NumPy, operands and lists of integers
        in turn: ``einsum(x, [0, 1], y, [1, 2], [0, 2])``.
    *xs : Tensor or array_like
        Numeric operands.

    Returns
    -------
    Tensor
        An axis per index of the output; of the promoted dtype.

    Raises
    ------
    ArgumentError
        If the subscripts cannot be understood.
    ShapeError
        If a term does not fit its operand or an index has two sizes (1 is repeated).
    DtypeError
        If all operands are boolean.

    Notes
    -----
    The cotangent of an operand is the product of the output's with the other operands, under the operand's term.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> y = cr.einsum("ij,j->i", x, [1.0, 10.0]); y
    tensor([21., 43.], from=einsum)
    >>> y.backward([1.0, 2.0]); x.grad
    tensor([[ 1., 10.],
            [ 2., 20.]])
    """
    text, given = (subscripts.replace(" ", ""), xs) if isinstance(subscripts, str) else _interleaved((subscripts, *xs))
    if not given:
        raise ArgumentError(f"einsum({text!r}) has no operands", mend="pass one operand per term")
    tensors = operands("einsum", "numeric", *given)
    plan = _plan(text, tuple(x.shape for x in tensors))
    done = [_alone(x, own) for x, own in zip(tensors, plan.own, strict=True)]
    if len(done) > 1:
        return bind(EINSUM, done, {"subscripts": plan.subscripts})
    (term,), out = _split(plan.subscripts)
    return alias(done[0]) if term == out else permute_dims(done[0], tuple(term.index(label) for label in out))


def _alone(x: Any, own: _Own) -> Any:
    if own.shape is not None:
        x = reshape(x, own.shape)
    for first, second in own.diagonals:
        x = diagonal(permute_dims(x, (*(axis for axis in range(x.ndim) if axis not in (first, second)), first, second)))
    return functions.sum(x, axis=own.summed, dtype=x.dtype) if own.summed else x


def _interleaved(arguments: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """Operands and lists of integers in turn, brought to the form with letters."""
    pairs = len(arguments) // 2
    terms = [_spelled(arguments[2 * place + 1]) for place in range(pairs)]
    output = f"->{_spelled(arguments[-1])}" if len(arguments) % 2 else ""
    return ",".join(terms) + output, arguments[: 2 * pairs : 2]


def _spelled(labels: Any) -> str:
    try:
        return "".join("..." if label is ... else ascii_letters[range(len(ascii_letters))[label]] for label in labels)
    except (TypeError, IndexError):
        mend = "pass subscripts first, or after each operand a list of integers from 0 to 51"
        raise ArgumentError(f"einsum: {labels!r} is no list of indices", mend=mend) from None


@public
def outer(x1: Tensor | npt.ArrayLike, x2: Tensor | npt.ArrayLike, /) -> Tensor:
    """The matrix of all products of two vectors' elements.

    Parameters
    ----------
    x1, x2 : Tensor or array_like
        Numeric values, shapes (N,) and (M,).

    Returns
    -------
    Tensor
        Shape (N, M), of the promoted dtype.

    Raises
    ------
    ShapeError
        If an operand is not a vector.
    DtypeError
        If both operands are boolean.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([1.0, 2.0], requires_grad=True)
    >>> y = cr.linalg.outer(x, [3.0, 4.0]); y
    tensor([[3., 4.],
            [6., 8.]], from=matmul)
    >>> y.backward([[1.0, 0.0], [0.0, 1.0]]); x.grad
    tensor([3., 4.])
    """
    a, b = operands("outer", "numeric", x1, x2)
    if not a.ndim == 1 == b.ndim:
        raise ShapeError(f"outer({describe(a)}, {describe(b)}): both operands must be vectors", mend="flatten them with reshape(x, (-1,))")
    return matmul(reshape(a, (a.shape[0], 1)), reshape(b, (1, b.shape[0])))


@public
def tensordot(x1: Tensor | npt.ArrayLike, x2: Tensor | npt.ArrayLike, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> Tensor:
    """Sum of products over chosen axes of two tensors.

    Parameters
    ----------
    x1, x2 : Tensor or array_like
        Numeric values.
    axes : int or (sequence of int, sequence of int)
        How many of the last axes of ``x1`` meet as many of the first axes of ``x2``, in order; or which axes
        of each meet, pair by pair.

    Returns
    -------
    Tensor
        The axes of ``x1`` that remain, then those of ``x2``; of the promoted dtype.

    Raises
    ------
    ShapeError
        If axes that meet differ in size.
    AxisError
        If an axis is out of range or stands twice.
    ArgumentError
        If not as many axes are given for ``x1`` as for ``x2``.
    DtypeError
        If both operands are boolean.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.reshape(cr.arange(8.0), (2, 2, 2))
    >>> cr.tensordot(x, [[1.0, 0.0], [0.0, 1.0]])
    tensor([ 3., 11.])
    """
    a, b = operands("tensordot", "numeric", x1, x2)
    met1, met2 = _meeting(axes, a, b)
    sizes1, sizes2 = tuple(a.shape[axis] for axis in met1), tuple(b.shape[axis] for axis in met2)
    if sizes1 != sizes2:
        raise ShapeError(
            f"tensordot({describe(a)}, {describe(b)}): axes {met1} of x1 have sizes {sizes1}, axes {met2} of x2 have {sizes2}",
            mend="axes that meet must be equal in size",
        )
    free1 = tuple(axis for axis in range(a.ndim) if axis not in met1)
    free2 = tuple(axis for axis in range(b.ndim) if axis not in met2)
    shape1, shape2, count = tuple(a.shape[axis] for axis in free1), tuple(b.shape[axis] for axis in free2), math.prod(sizes1)
    rows = reshape(_in_order(a, free1 + met1), (math.prod(shape1), count))
    columns = reshape(_in_order(b, met2 + free2), (count, math.prod(shape2)))
    return reshape(matmul(rows, columns), shape1 + shape2)


def _in_order(x: Any, axes: tuple[int, ...]) -> Any:
    return x if axes == tuple(range(x.ndim)) else functions.permute_dims(x, axes)


def _meeting(axes: int | tuple[Sequence[int], Sequence[int]], x1: Any, x2: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if not isinstance(axes, Sequence):
        count = index(axes)
        if not 0 <= count <= min(x1.ndim, x2.ndim):
            says = f"tensordot({describe(x1)}, {describe(x2)}): there are not {count} axes in both"
            raise AxisError(says, mend="axes=N joins the last N axes of x1 with the first N of x2")
        return tuple(range(x1.ndim - count, x1.ndim)), tuple(range(count))
    first, second = (tuple(normalize_axis(axis, x.ndim, "tensordot") for axis in given) for x, given in zip((x1, x2), axes, strict=True))
    if len(first) != len(second):
        raise ArgumentError(f"tensordot: {len(first)} axes of x1 are to meet {len(second)} of x2", mend="give as many axes of one as of the other")
    if len(set(first)) < len(first) or len(set(second)) < len(second):
        raise AxisError(f"tensordot: an axis stands twice in {axes}", mend="name every axis once")
    return first, second
