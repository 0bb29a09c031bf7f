"""The kinds of steps that random programs are made of: how each is drawn, and what it calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

import chainrule as cr
from chainrule.core.primitive import functions
from chainrule.tensor import Tensor
from fuzz_loops import loops
from fuzz_moves import MOST, Call, Step, joins, looks_up, moves

if TYPE_CHECKING:
    from fuzzed import Fuzz

__all__ = ["KINDS"]

Kind = Callable[["Fuzz"], Step | None]
KINDS: dict[str, tuple[float, Kind]] = {"moves": (8, moves), "joins": (2, joins), "looks_up": (2, looks_up), "loops": (2, loops)}


def kind(weight: float) -> Callable[[Kind], Kind]:
    def note(make: Kind) -> Kind:
        KINDS[make.__name__] = (weight, make)
        return make

    return note


SMOOTH: dict[str, Call] = {
    "tanh": cr.tanh,
    "sigmoid": cr.sigmoid,
    "sin": cr.sin,
    "cos": cr.cos,
    "square": cr.square,
    "exp": lambda x: cr.exp(x * 0.2),
    "expm1": lambda x: cr.expm1(-cr.square(x) * 0.1),
    "log": lambda x: cr.log(cr.square(x) + 0.5),
    "log1p": lambda x: cr.log1p(cr.square(x)),
    "sqrt": lambda x: cr.sqrt(cr.square(x) + 0.5),
    "rsqrt": lambda x: cr.rsqrt(cr.square(x) + 0.5),
    "reciprocal": lambda x: cr.reciprocal(cr.square(x) + 0.5),
    "softplus": cr.softplus,
    "erf": cr.erf,
    "atan": cr.atan,
    "asinh": cr.asinh,
    "gelu": cr.gelu,
    "silu": cr.silu,
    "cube": lambda x: x**3,
    "power": lambda x: (cr.square(x) + 0.5) ** 0.3,
    "half": lambda x: x * 0.5,
    "shift": lambda x: 1.5 - x,
    "through": cr.checkpoint(lambda x: cr.sin(x) * cr.tanh(x)),
    "elu": cr.elu,
}
EXACT: dict[str, Call] = {
    "negative": lambda x: -x,
    "abs": cr.abs,
    "relu": cr.relu,
    "leaky_relu": lambda x: cr.where(x > 0, x, x * 0.25),
    "clip": lambda x: cr.clip(x, -0.5, 1.0),
    "stop_gradient": cr.stop_gradient,
    "positive": lambda x: +x,
}
JUMPS: dict[str, Call] = {
    "sign": cr.sign,
    "floor": cr.floor,
    "ceil": cr.ceil,
    "round": cr.round,
    "trunc": cr.trunc,
    "isnan": cr.isnan,
    "isfinite": cr.isfinite,
    "signbit": cr.signbit,
    "above": lambda x: x > 0,
    "zero": lambda x: x == 0,
}


@kind(6)
def smooth(d: Fuzz) -> Step | None:
    i, name = d.pick("f"), d.choose([*SMOOTH])
    # -inf times 0: its erf rounds to -1 or not.
    return None if i is None or (d.strange and name == "gelu") else Step(name, (i,), SMOOTH[name])


@kind(3)
def bent(d: Fuzz) -> Step | None:
    i, name = d.pick("f", lambda x: not _near_zero(x)), d.choose([*EXACT])
    return None if i is None else Step(name, (i,), EXACT[name], exact=True)


def _near_zero(x: Tensor) -> bool:
    value = np.abs(np.asarray(x))
    return bool(((value < 1e-4) & (value > 0)).any())


@kind(1)
def jumps(d: Fuzz) -> Step | None:
    i, name = d.pick("f", exact=True), d.choose([*JUMPS])
    return None if i is None else Step(name, (i,), JUMPS[name], exact=True)


@kind(1.5)
def integers(d: Fuzz) -> Step | None:
    i, c = d.pick("iu"), d.integer(1, 5)
    calls: dict[str, Call] = {
        "plus": lambda x: x + c,
        "times": lambda x: x * c,
        "floor_divide": lambda x: x // c,
        "remainder": lambda x: x % c,
        "and": lambda x: cr.bitwise_and(x, x + c),
        "xor": lambda x: cr.bitwise_xor(x, x * c),
        "left": lambda x: cr.bitwise_left_shift(x, x * 0 + c),
        "right": lambda x: cr.bitwise_right_shift(x, x * 0 + c),
        "invert": cr.bitwise_invert,
        "square": cr.square,
        "above": lambda x: x > c,
        "abs": cr.abs,
        "float": lambda x: cr.astype(x % 8, d.float),
        "small": lambda x: cr.astype(x, "int8"),
        "cumulative": lambda x: cr.cumulative_sum(x, axis=0) if x.ndim else x,
        "real": lambda x: cr.astype(x % 5, "float64") / 3,
    }
    name = d.choose([*calls])
    return None if i is None else Step(f"{name} {c}", (i,), calls[name], exact=True)


@kind(1)
def booleans(d: Fuzz) -> Step | None:
    i = d.pick("b")
    calls: dict[str, Call] = {
        "not": cr.logical_not,
        "float": lambda x: cr.astype(x, d.float),
        "int": lambda x: cr.astype(x, "int32"),
        "all": lambda x: cr.all(x, axis=0 if x.ndim else None),
        "any": lambda x: cr.any(x, axis=-1 if x.ndim else None, keepdims=True),
        "count": lambda x: cr.count_nonzero(x),
        "sum": lambda x: cr.sum(x),
    }
    name = d.choose([*calls])
    return None if i is None else Step(name, (i,), calls[name], exact=True)


@kind(0.5)
def casts(d: Fuzz) -> Step | None:
    i = d.pick("f")
    dtype = d.choose(["float32", "float64"])
    return None if i is None else Step(f"astype {dtype}", (i,), lambda x: cr.astype(x, dtype))


BOTH: dict[str, Call] = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / (cr.square(y) + 1),
    "hypot": lambda x, y: cr.hypot(x, y + 1.5),
    "atan2": lambda x, y: cr.atan2(x, cr.square(y) + 1),
    "logaddexp": cr.logaddexp,
    "masked": lambda x, y: functions.masked_multiply(x, y),
    "fma": lambda x, y: x * y + x,
}
CHOICES: dict[str, Call] = {
    "maximum": cr.maximum,
    "minimum": cr.minimum,
    "where": lambda x, y: cr.where(y > 0, x, y),
    "less": lambda x, y: x < y,
    "copysign": cr.copysign,
    "equal": lambda x, y: x == y,
}


def _meeting(d: Fuzz, i: int, *, exact: bool = False, kinds: str = "f") -> int | None:
    """Another value that broadcasts with this one; a new one if need be."""
    shape = d.values[i].shape

    def fits(y: Tensor) -> bool:
        try:
            return int(np.prod(np.broadcast_shapes(shape, y.shape))) <= MOST
        except ValueError:
            return False

    if d.flip(0.6):
        return d.pick(kinds, fits, exact=exact)
    other = tuple(1 if d.flip(0.3) else n for n in shape)[d.integer(0, len(shape)) if d.flip(0.3) else 0 :]
    if kinds != "f":
        return d.new(d.array(other, str(d.values[i].dtype)))
    array = d.array(other)
    return d.new(array) if d.flip(0.8) else d.pick(kinds, fits, exact=exact)


@kind(6)
def both(d: Fuzz) -> Step | None:
    i = d.pick("f")
    j = None if i is None else _meeting(d, i)
    name = d.choose([*BOTH])
    return None if i is None or j is None else Step(name, (i, j) if d.flip() else (j, i), BOTH[name])


@kind(2)
def choices(d: Fuzz) -> Step | None:
    kinds = d.choose(["f", "f", "iu"])
    i = d.pick(kinds, exact=True)
    j = None if i is None else _meeting(d, i, exact=True, kinds=kinds)
    name = d.choose([*CHOICES])
    return None if i is None or j is None else Step(name, (i, j), CHOICES[name], exact=True)


@kind(1)
def masked(d: Fuzz) -> Step | None:
    i = d.pick("b")
    j = None if i is None else _meeting(d, i)
    k = None if i is None else d.pick("f", lambda x: x.ndim == 0 or x.shape == d.values[i].shape)
    return None if i is None or j is None or k is None else Step("where", (i, j, k), cr.where, exact=True)


@kind(1)
def numbers(d: Fuzz) -> Step | None:
    """Constants: numbers and arrays."""
    i = d.pick("f")
    if i is None:
        return None
    shape = d.values[i].shape
    array = d.array(shape[d.integer(0, len(shape)) :], str(d.values[i].dtype))
    return d.choose([Step("times constant", (i,), lambda x: x * array), Step("constant", (i,), lambda x: cr.asarray(array) + 0 * cr.sum(x))])


def _axes(d: Fuzz, x: Tensor) -> Any:
    if not x.ndim or d.flip(0.2):
        return None
    return tuple(sorted(int(a) for a in d.rng.choice(x.ndim, d.integer(1, x.ndim), replace=False)))


REDUCE: dict[str, Call] = {"sum": cr.sum, "mean": cr.mean, "var": cr.var, "logsumexp": cr.logsumexp, "std": lambda x, **k: cr.std(x, **k)}
EXTREMES: dict[str, Call] = {"max": cr.max, "min": cr.min}


@kind(4)
def reduces(d: Fuzz) -> Step | None:
    i = d.pick("f", lambda x: x.size > 0)
    if i is None:
        return None
    name, axes, keep = d.choose(["sum", "sum", "mean", "var", "logsumexp", "sum of squares"]), _axes(d, d.values[i]), d.flip()
    call = REDUCE.get(name, lambda x, **k: cr.sum(x * x, **k))
    return Step(f"{name} {axes} {keep}", (i,), lambda x: call(x, axis=axes, keepdims=keep))


@kind(1)
def reduces_integers(d: Fuzz) -> Step | None:
    i = d.pick("iub", lambda x: x.size > 0)
    if i is None:
        return None
    name, axes, keep = d.choose(["sum", "max", "prod", "count_nonzero"]), _axes(d, d.values[i]), d.flip()
    call = getattr(cr, name)
    return Step(f"{name} {axes} {keep}", (i,), lambda x: call(x, axis=axes, keepdims=keep), exact=True)


@kind(2)
def extremes(d: Fuzz) -> Step | None:
    i = d.pick("f", lambda x: x.size > 0)
    if i is None:
        return None
    name, axes, keep = d.choose([*EXTREMES]), _axes(d, d.values[i]), d.flip()
    return Step(f"{name} {axes} {keep}", (i,), lambda x: EXTREMES[name](x, axis=axes, keepdims=keep), exact=True)


@kind(1)
def positions(d: Fuzz) -> Step | None:
    i = d.pick("fiu", lambda x: x.size > 0 and x.ndim > 0, exact=True)
    if i is None:
        return None
    axis, down = d.integer(-1, d.values[i].ndim - 1), d.flip()
    calls: dict[str, Call] = {
        "argmax": lambda x: cr.argmax(x, axis=axis),
        "argmin": lambda x: cr.argmin(x, axis=axis, keepdims=down),
        "sort": lambda x: cr.sort(x, axis=axis, descending=down),
        "argsort": lambda x: cr.argsort(x, axis=axis, descending=down),
        "argmax all": lambda x: cr.argmax(x),
        "top": lambda x: cr.top_k(x, 1, axis=axis)[0],
    }
    name = d.choose([*calls])
    return Step(f"{name} {axis} {down}", (i,), calls[name], exact=True)


@kind(3)
def products(d: Fuzz) -> Step | None:
    i = d.pick("f", lambda x: x.ndim > 0 and x.size > 0)
    if i is None:
        return None
    x = d.values[i]
    n = d.choose([1, 2, 3, 5, 8, 17, 33])
    dtype = str(x.dtype)
    if x.ndim == 1:
        shape: tuple[int, ...] = (x.shape[0], n) if d.flip() else (x.shape[0],)
    elif d.flip():
        shape = (x.shape[-1], n)
    else:
        shape = (*x.shape[:-2], x.shape[-1], n)
    if int(np.prod(shape)) > 4 * MOST:
        return None
    j = d.pick("f", lambda y: y.shape == shape and y.dtype == x.dtype) if d.flip(0.2) else None
    j = d.new(d.array(shape, dtype) / np.sqrt(x.shape[-1]).astype(dtype)) if j is None else j
    name = d.choose(["plain", "plain", "gram", "bias", "relu", "left"])
    calls: dict[str, Call] = {
        "plain": lambda x, w: x @ w,
        "gram": lambda x, w: (x.mT @ x if x.ndim > 1 else x @ x) / 4.0,
        "bias": lambda x, w: x @ w + w[..., 0, :] if w.ndim == 2 else x @ w,
        "relu": lambda x, w: cr.tanh(x @ w) * 2.0,
        "left": lambda x, w: w.mT @ x.mT if w.ndim > 1 and x.ndim > 1 else x @ w,
    }
    return Step(f"matmul {name}", (i, j), calls[name])


@kind(2)
def sums_of_products(d: Fuzz) -> Step | None:
    i = d.pick("f", lambda x: 0 < x.ndim < 4 and x.size > 0)
    if i is None:
        return None
    x = d.values[i]
    letters = "abcdef"
    own = letters[: x.ndim]
    sizes = dict(zip(own, x.shape, strict=True)) | {"e": d.choose([1, 2, 3, 9]), "f": d.choose([1, 4, 7])}
    other = "".join(str(c) for c in d.rng.permutation([*own, "e", "f"])[: d.integer(1, 3)])
    every = sorted({*own, *other})
    out = "".join(str(c) for c in d.rng.permutation(every)[: d.integer(0, min(4, len(every)))])
    shape = tuple(sizes[c] for c in other)
    if int(np.prod(shape)) > MOST:
        return None
    j = d.new(d.array(shape, str(x.dtype)))
    spec = f"{own},{other}->{out}"
    scale = float(np.prod([sizes[c] for c in every]) ** -0.5)
    return Step(f"einsum {spec}", (i, j), lambda x, y: cr.einsum(spec, x, y) * scale)


@kind(1.5)
def windows(d: Fuzz) -> Step | None:
    axes = d.integer(1, 2)
    i = d.pick("f", lambda x: x.ndim == axes + 2 and x.size > 0)
    groups = d.choose([1, 1, 2, 3])
    if i is None or d.values[i].shape[-1] % groups:
        channels = d.choose([1, 2, 3, 4, 8, 16]) * groups
        sizes = tuple(d.integer(1, 9) for _ in range(axes))
        i = d.new(d.array((d.integer(1, 3), *sizes, channels)))
    x = d.values[i]
    stride, padding, dilation = d.integer(1, 3), d.choose([0, 1, 2, "same", "valid"]), d.integer(1, 2)
    name = d.choose(["conv", "conv", "conv_transpose", "max_pool", "avg_pool", "gradients"])
    if name.endswith("pool"):
        window = d.integer(1, 3)
        pool = getattr(cr, name)
        padding = 0 if isinstance(padding, int) and padding > window // 2 else padding
        return Step(f"{name} {window} {stride} {padding}", (i,), lambda x: pool(x, window, stride=stride, padding=padding), exact=name == "max_pool")
    # Whether padding times infinity is added is not promised.
    if d.strange:
        return None
    window = tuple(d.integer(1, 3) for _ in range(axes))
    features = d.choose([1, 2, 3, 8, 17]) * groups
    fan = int(np.prod(window)) * x.shape[-1]
    shape = (*window, x.shape[-1] // groups, features) if name != "conv_transpose" else (*window, features // groups, x.shape[-1])
    w = d.new((d.array(shape, str(x.dtype)) / np.sqrt(fan)).astype(x.dtype))
    if name == "conv_transpose":
        padding = 0 if isinstance(padding, str) else min(padding, min(window) // 2)
        return Step(
            f"{name} {stride} {padding} {dilation} {groups}",
            (i, w),
            lambda x, w: cr.conv_transpose(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups),
        )
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    after = d.choose([lambda y: y, lambda y: y + 0.5, cr.tanh])
    return Step(f"conv {settings}", (i, w), lambda x, w: after(cr.conv(x, w, **settings)))


@kind(2)
def normalizes(d: Fuzz) -> Step | None:
    i = d.pick("f", lambda x: x.ndim > 0 and x.size > 0)
    if i is None:
        return None
    x, axis = d.values[i], d.integer(-1, d.values[i].ndim - 1)
    several = tuple(range(d.integer(0, x.ndim - 1), x.ndim))
    classes = x.shape[axis]
    labels = d.rng.integers(0, classes, tuple(n for k, n in enumerate(x.shape) if k != axis % x.ndim))
    calls: dict[str, Call] = {
        "softmax": lambda x: cr.softmax(x, axis=axis),
        "log_softmax": lambda x: cr.log_softmax(x, axis=several),
        "softmax several": lambda x: cr.softmax(x, axis=several),
        "layer_norm": lambda x: cr.layer_norm(x, axis=several, epsilon=0.1),
        "batch_norm": lambda x: list(cr.batch_norm(x, axis=tuple(range(x.ndim - 1)), epsilon=0.1)),
        "standardize": lambda x: list(cr.standardize(x, axis=axis, epsilon=0.1)),
        "cross_entropy": lambda x: cr.softmax_cross_entropy(x, labels, axis=axis, reduction="none"),
        "soft": lambda x: cr.softmax_cross_entropy(x, cr.softmax(x * 0.5, axis=axis), axis=axis, reduction="none"),
        "sigmoid_cross_entropy": lambda x: cr.sigmoid_cross_entropy(x, cr.sigmoid(x)),
    }
    name = d.choose([*calls])
    if name == "cross_entropy" and d.flip():
        j = d.new(labels.astype(d.choose(["int64", "int32", "uint8"])))
        mean = d.choose(["mean", "sum", "none"])
        return Step(
            f"cross_entropy {axis} {mean}", (i, j), lambda x, t: cr.softmax_cross_entropy(x, t, axis=axis, reduction=mean, label_smoothing=0.1)
        )
    return Step(f"{name} {axis} {several}", (i,), calls[name])


@kind(1.5)
def accumulates(d: Fuzz) -> Step | None:
    i = d.pick("f", lambda x: x.ndim > 0)
    if i is None:
        return None
    axis, more = d.integer(-1, d.values[i].ndim - 1), d.flip(0.3)
    calls: dict[str, Call] = {
        "cumulative_sum": lambda x: cr.cumulative_sum(x * 0.3, axis=axis, include_initial=more),
        "cumulative_prod": lambda x: cr.cumulative_prod(cr.sin(x) * 0.3 + 1.0, axis=axis),
        "linear_recurrence": lambda x: cr.linear_recurrence(cr.sigmoid(x), x, axis=axis),
        "diff": lambda x: cr.diff(x, axis=axis),
    }
    name = d.choose([*calls])
    return Step(f"{name} {axis}", (i,), calls[name])
