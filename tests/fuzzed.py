"""Random programs of all kinds of gates, for what must run anything: drawn from a seed, each a function of arrays with arrays for it.

Every step is run eagerly as it is drawn. What follows is chosen to be well conditioned, so that rounding stays rounding: values stay
small, and gates that jump (comparisons, rounding, sorting) only read what is exact: inputs, and what is moved or chosen from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import chainrule as cr
from chainrule.core.errors import ChainruleError
from chainrule.tensor import Tensor
from fuzz_kinds import KINDS
from fuzz_moves import MOST, Call, Step

LARGE = 20.0


class Fuzz:
    """A program: steps that each add values, the first ones being the inputs.

    Parameters
    ----------
    seed : int
    length : int
        How many steps.
    """

    def __init__(self, seed: int, length: int = 10) -> None:
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.float = self.choose(["float32", "float64"])
        self.mixed = self.rng.random() < 0.2
        self.strange = self.rng.random() < 0.1
        self.inputs: list[np.ndarray] = []
        self.places: list[int] = []
        self.values: list[Tensor] = []
        self.exact: list[bool] = []
        self.steps: list[Step | None] = []
        for _ in range(self.integer(1, 3)):
            self.new()
        names = [*KINDS]
        weights = np.array([KINDS[name][0] for name in names], float)
        while sum(step is not None for step in self.steps) < length:
            name = names[self.rng.choice(len(names), p=weights / weights.sum())]
            step = KINDS[name][1](self)
            if step is not None:
                self.add(step)
        count = self.integer(1, 4)
        made = [i for i, step in enumerate(self.steps) if step is not None]
        self.results = [made[-1], *(int(i) for i in self.rng.choice(made if self.rng.random() < 0.8 else len(self.values), count))]

    # Drawing.

    def integer(self, low: int, high: int) -> int:
        """Inclusive."""
        return int(self.rng.integers(low, high + 1))

    def choose(self, items: Sequence[Any]) -> Any:
        return items[self.integer(0, len(items) - 1)]

    def flip(self, chance: float = 0.5) -> bool:
        return bool(self.rng.random() < chance)

    def shape(self, most: int = 4) -> tuple[int, ...]:
        sizes = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33] if self.flip(0.97) else [0, 1, 3]
        while True:
            shape = tuple(self.choose(sizes) for _ in range(self.integer(0, most)))
            if int(np.prod(shape)) <= MOST:
                return shape

    def array(self, shape: tuple[int, ...], dtype: str | None = None) -> np.ndarray:
        dtype = dtype or self.float
        kind = np.dtype(dtype).kind
        if kind == "b":
            return self.rng.random(shape) < 0.5
        if kind in "iu":
            return self.rng.integers(0 if kind == "u" else -9, 10, shape).astype(dtype)
        made = np.asarray(self.rng.normal(size=shape))
        made = np.where(self.rng.random(shape) < 0.05, self.rng.choice((0.0, -0.0, 1.0), shape), made)
        if self.strange:
            made = np.where(self.rng.random(shape) < 0.02, self.rng.choice((np.nan, np.inf, -np.inf), shape), made)
        return made.astype(dtype)

    def dtype(self) -> str:
        if self.flip(0.75):
            return self.float if not self.mixed or self.flip() else {"float32": "float64", "float64": "float32"}[self.float]
        return self.choose(["int64", "int32", "int8", "uint8", "bool", "int16", "uint32"])

    def new(self, array: np.ndarray | None = None) -> int:
        """An input."""
        array = self.array(self.shape(), self.dtype()) if array is None else array
        self.inputs.append(array[()])
        self.places.append(len(self.values))
        self.keep(cr.asarray(array), None, exact=True)
        return len(self.values) - 1

    def keep(self, value: Tensor, step: Step | None, *, exact: bool) -> None:
        self.values.append(value)
        self.steps.append(step)
        self.exact.append(exact)

    def pick(self, kinds: str = "fiub", test: Callable[[Tensor], bool] = lambda x: True, *, exact: bool = False) -> int | None:
        """One of the values, later ones more often."""
        fits = [i for i, x in enumerate(self.values) if x.dtype.kind in kinds and test(x) and (self.exact[i] or not exact)]
        if not fits:
            return None
        return fits[-1 - min(self.integer(0, len(fits) - 1), self.integer(0, len(fits) - 1))]

    def add(self, step: Step) -> None:
        given = [self.values[i] for i in step.operands]
        try:
            with np.errstate(all="ignore"):
                made = step.call(*given)
        except ChainruleError:
            return
        outs = [*made] if isinstance(made, (tuple, list)) else [made]
        if not outs or any(out.size > MOST or out.ndim > 6 or out.dtype.kind == "c" for out in outs):
            return
        exact = step.exact and all(self.exact[i] for i in step.operands)
        first = len(self.values)
        for k, out in enumerate(outs):
            part = step if made is outs[0] else Step(f"{step.name}[{k}]", step.operands, _part(step.call, k), step.exact)
            self.keep(out, part, exact=exact or out.dtype.kind in "biu")
        for k, out in enumerate(outs):
            if out.dtype.kind == "f" and _large(out):
                call = cr.tanh if self.flip() else _smaller
                self.keep(call(self.values[first + k]), Step("tamed", (first + k,), call), exact=False)

    # Running.

    def values_of(self, *xs: Any) -> list[Any]:
        """All values, from those of the inputs."""
        given = dict(zip(self.places, xs, strict=True))
        values: list[Any] = []
        for i, step in enumerate(self.steps):
            values.append(cr.asarray(given[i]) if step is None else step.call(*(values[j] for j in step.operands)))
        return values

    def __call__(self, *xs: Any) -> tuple[Any, ...]:
        values = self.values_of(*xs)
        return tuple(values[i] for i in self.results)

    @property
    def single(self) -> bool:
        """Whether something is of single precision."""
        return any(x.dtype == np.float32 for x in self.values)

    def needed(self) -> list[int]:
        """The values that results need."""
        found: set[int] = set()
        todo = [*self.results]
        while todo:
            i = todo.pop()
            if i not in found:
                found.add(i)
                step = self.steps[i]
                todo += step.operands if step else ()
        return sorted(found)

    def trim(self) -> Fuzz:
        """Only the steps that results need."""
        order = self.needed()
        number = {i: k for k, i in enumerate(order)}
        own = dict(zip(self.places, self.inputs, strict=True))
        made = object.__new__(Fuzz)
        made.__dict__.update(self.__dict__)
        made.inputs = [own[i] for i in order if i in own]
        made.places = [number[i] for i in order if i in own]
        made.values = [self.values[i] for i in order]
        made.exact = [self.exact[i] for i in order]
        made.steps = [step and step._replace(operands=tuple(number[j] for j in step.operands)) for step in (self.steps[i] for i in order)]
        made.results = [number[i] for i in self.results]
        return made

    def replaced(self, i: int) -> Fuzz:
        """With an input in the place of a step."""
        made = object.__new__(Fuzz)
        made.__dict__.update(self.__dict__)
        made.steps = [None if k == i else step for k, step in enumerate(self.steps)]
        pairs = sorted([*zip(self.places, self.inputs, strict=True), (i, np.asarray(self.values[i])[()])], key=lambda pair: pair[0])
        made.places, made.inputs = [place for place, _ in pairs], [x for _, x in pairs]
        return made

    def smaller(self) -> list[Fuzz]:
        """Programs with one result or one step less."""
        fewer = []
        if len(self.results) > 1:
            for i in range(len(self.results)):
                one = object.__new__(Fuzz)
                one.__dict__.update(self.__dict__)
                one.results = [self.results[i]]
                fewer.append(one.trim())
        order = [i for i, step in enumerate(self.steps) if step is not None and i not in self.results]
        return [*fewer, *(self.replaced(i).trim() for i in order)]

    def minimal(self, fails: Callable[[Fuzz], bool]) -> Fuzz:
        """The smallest that still fails."""
        program = self.trim()
        while True:
            program, before = next((one for one in program.smaller() if fails(one)), program), program
            if program is before:
                return program

    def __repr__(self) -> str:
        lines = [f"seed {self.seed}"]
        for i, (step, x) in enumerate(zip(self.steps, self.values, strict=True)):
            said = "input" if step is None else f"{step.name}({', '.join(f'v{j}' for j in step.operands)})"
            lines.append(f"v{i}: {x.dtype}{list(x.shape)} = {said}")
        return "\n".join([*lines, f"return {', '.join(f'v{i}' for i in self.results)}"])


def _part(call: Call, k: int) -> Call:
    return lambda *xs: call(*xs)[k]


def _large(x: Tensor) -> bool:
    value = np.asarray(x)
    finite = value[np.isfinite(value)]
    return bool(finite.size and np.abs(finite).max() > LARGE)


def _smaller(x: Any) -> Any:
    return x / (1.0 + cr.max(cr.abs(x)))


# Comparing.


def gradient(program: Fuzz) -> Call | None:
    """A function of the same inputs that gives the gradients of all results by all floating-point inputs."""
    places = [i for i, x in enumerate(program.inputs) if np.asarray(x).dtype.kind == "f"]
    if not places:
        return None

    def loss(*xs: Any) -> Any:
        outs = [out for out in program(*xs) if out.dtype.kind == "f"]
        total = cr.asarray(0.0)
        for k, out in enumerate(outs):
            total = total + cr.sum(cr.astype(out, "float64") * (0.5 + 0.1 * k))
        return total

    return cr.grad(loss, argnums=tuple(places))


def differences(got: Sequence[Any], wanted: Sequence[Any], scale: float, *, single: bool) -> str:
    """What is not the same; nothing if all is, but for rounding, of single precision somewhere or of double."""
    for k, (one, other) in enumerate(zip(got, wanted, strict=True)):
        one, other = np.asarray(one), np.asarray(other)
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            return f"result {k} is {one.dtype}{one.shape}, not {other.dtype}{other.shape}"
        if other.dtype.kind != "f":
            if not np.array_equal(one, other):
                return f"result {k} differs: {one}, {other}"
            continue
        bound = (1e-4 if single else 1e-9) * scale
        with np.errstate(all="ignore"):
            near = (np.abs(one - other) <= bound) | (one == other) | (np.isnan(one) & np.isnan(other))
        if not near.all():
            return f"result {k} differs at scale {scale}, at {np.argwhere(~near)[:3].tolist()}: {one[~near][:4]}, not {other[~near][:4]}"
    return ""


def scale_of(values: Sequence[Any]) -> float:
    """The largest finite size of all values."""
    sizes = [np.abs(x[np.isfinite(x)]).max(initial=0.0) for x in map(np.asarray, values) if x.dtype.kind == "f"]
    return float(max([1.0, *sizes]))
