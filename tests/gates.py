"""The promises that every gate keeps, as checks of one gate's record and public function.

`test_gates` runs them over the whole table; `test_tester` runs them over gates that break one promise each and
sees them fail. A sample's floating-point arrays are what is differentiated; they are always read-only, so
that a gate which writes into its inputs cannot pass.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Self

import numpy as np
import pytest
import scipy.special

import chainrule as cr
from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import ChainruleError
from chainrule.core.interp import Mode, using
from chainrule.core.primitive import Primitive, Same, functions
from chainrule.tensor import Tensor, new

NARROW = {np.dtype("float64"): np.dtype("float32"), np.dtype("complex128"): np.dtype("complex64")}
BATCH = 5

CUT = {"stop_gradient", "nextafter"}
"""Gates that pass no gradient although their value changes with their input."""


@dataclass(frozen=True)
class Gate:
    """A record with its public function."""

    primitive: Primitive
    function: Callable[..., Any]

    @property
    def has_rules(self) -> bool:
        return self.primitive.pulls not in ((), None) and self.primitive.pulls != (None,) * len(self.primitive.inputs)

    def cases(self, seed: int = 0) -> list[Case]:
        rng = np.random.default_rng([seed, zlib.crc32(self.primitive.name.encode())])
        return [Case.of(self, i, sample.args, dict(sample.kwargs)) for i, sample in enumerate(self.primitive.samples(rng))]


def in_a_graph(function: Callable[..., Any]) -> Callable[..., Any]:
    """Control flow is a gate in graphs only: the function of the arrays among its arguments, traced and run."""

    def run(*args: Any, **kwargs: Any) -> Any:
        leaves, structure = tree.flatten((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, (np.ndarray, np.generic, Tensor))]

        def f(*arrays: Any) -> Any:
            given = dict(zip(places, arrays, strict=True))
            own_args, own_kwargs = structure.rebuild(given.get(i, leaf) for i, leaf in enumerate(leaves))
            return function(*own_args, **own_kwargs)

        arrays = [leaves[i] for i in places]
        return cr.trace(f, *arrays).run(*arrays)

    return run


@dataclass(frozen=True)
class Case:
    """One sample, as a function of the floating-point arrays among its arguments.

    As a context manager it puts its own description on whatever fails inside.
    """

    gate: Gate
    index: int
    leaves: list[Any]
    structure: tree.Structure
    places: list[int]

    @classmethod
    def of(cls, gate: Gate, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Case:
        if args and isinstance(args[0], float):
            args = (np.array(args[0]), *args[1:])
        leaves, structure = tree.flatten((args, kwargs))
        leaves = [frozen(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, (np.ndarray, np.generic)) and leaf.dtype.kind == "f"]
        return cls(gate, index, leaves, structure, places)

    def __str__(self) -> str:
        args, kwargs = self.structure.rebuild(map(brief, self.leaves))
        parts = [*map(str, args), *(f"{name}={value}" for name, value in kwargs.items())]
        return f"{self.gate.primitive.name}({', '.join(parts)})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            error.add_note(f"sample {self.index}: {self}")

    @property
    def arrays(self) -> list[Any]:
        """What is differentiated."""
        return [self.leaves[place] for place in self.places]

    def arguments(self, arrays: Iterable[Any] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        leaves = list(self.leaves)
        if arrays is not None:
            for place, array in zip(self.places, arrays, strict=True):
                leaves[place] = array
        return self.structure.rebuild(leaves)

    def __call__(self, *arrays: Any) -> list[Tensor]:
        """All outputs, in order."""
        args, kwargs = self.arguments(arrays)
        return [functions.asarray(out) for out in tree.leaves(self.gate.function(*args, **kwargs))]

    def real(self, *arrays: Any) -> list[Tensor]:
        """The outputs through which gradients flow."""
        return [out for out in self(*arrays) if out.dtype.kind == "f"]

    @property
    def differentiable(self) -> bool:
        return bool(self.places) and bool(self.real(*self.arrays))

    @property
    def narrows(self) -> bool:
        """Whether float64 inputs give a result of less precision, too little for difference quotients."""
        return any(out.dtype.itemsize < 8 for out in self.real(*self.arrays))


def frozen(x: Any) -> Any:
    x = np.array(x)
    x.flags.writeable = False
    return x


def brief(leaf: Any) -> Any:
    return Word(str(Aval(leaf.shape, leaf.dtype))) if isinstance(leaf, (np.ndarray, np.generic)) else leaf


class Word(str):
    """A string that prints without quotation marks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Call:
    """A gate as the interpreter saw it."""

    primitive: Primitive
    values: list[Any]
    params: dict[str, Any]
    value: Any
    outputs: tuple[Any, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", tuple(self.value) if self.primitive.outputs else (self.value,))


@contextmanager
def watching() -> Iterator[list[Call]]:
    """Record every gate that is applied inside, with bare values."""
    calls: list[Call] = []

    def interpret(primitive: Primitive, inputs: Sequence[Any], params: Any) -> Any:
        values = [x._value for x in inputs]
        value = primitive.evaluate(*values, **params)
        calls.append(Call(primitive, values, dict(params), value))
        return tuple(map(new, value)) if primitive.outputs else new(value)

    with using(Mode(interpret=interpret)):
        yield calls


def calls_of(case: Case, arrays: Sequence[Any]) -> list[Call]:
    with watching() as calls:
        case(*arrays)
    return calls


def check_samples(gate: Gate) -> None:
    """There are samples, and they reach the gate."""
    cases = gate.cases()
    assert cases, "a gate without samples"
    assert any(call.primitive is gate.primitive for case in cases for call in calls_of(case, case.arrays)), "no sample reaches the gate"


FORMULAS: dict[str, Callable[..., Any] | None] = {
    "cholesky": lambda x, **how: np.linalg.cholesky((x + x.mT) / 2, **how),
    "eigh": lambda x: np.linalg.eigh((x + x.mT) / 2),
    "eigvalsh": lambda x: np.linalg.eigvalsh((x + x.mT) / 2),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "softplus": lambda x: np.logaddexp(x, 0),
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "split": lambda x, parts, axis=0: np.array_split(x, parts, axis),
    "one_hot": lambda x, count, **how: np.eye(count)[x],
    "cond": None,
    "scatter_along_axis": None,
    "place": None,
}
"""NumPy's way to say what has no namesake there, or another meaning; None where there is none."""


def reference(name: str) -> Callable[..., Any] | None:
    """The function that a gate should agree with, if there is one."""
    if name in FORMULAS:
        return FORMULAS[name]
    return next((getattr(place, name) for place in (np.linalg, np, scipy.special) if hasattr(place, name)), None)


def check_values(gate: Gate) -> None:
    """The values are those of the function of the same name in NumPy or SciPy, on all samples that those take."""
    function = reference(gate.primitive.name)
    if function is None:
        return
    compared = 0
    for case in gate.cases():
        with case:
            args, kwargs = case.arguments()
            try:
                expected = function(*args, **kwargs)
            except (TypeError, ValueError):
                continue
            compared += 1
            expected = tuple(expected) if isinstance(expected, tuple) else expected
            for out, value in zip(case(*case.arrays), tree.leaves(expected), strict=True):
                np.testing.assert_allclose(np.asarray(out), value, rtol=1e-6 if out.dtype.itemsize < 8 else 1e-10, atol=1e-12)
    assert compared, f"no sample is understood by {function}"


def check_shapes(gate: Gate) -> None:
    """The shape and dtype rule foretells what eval gives, for float64 and float32."""
    for case in gate.cases():
        with case:
            for arrays in (case.arrays, [frozen(np.float32(x)) for x in case.arrays]):
                for call in calls_of(case, arrays):
                    foretold = call.primitive.aval(*(Aval(np.shape(v), v.dtype) for v in call.values), **call.params)
                    foretold = tuple(foretold) if call.primitive.outputs else (foretold,)
                    assert [Aval(np.shape(v), v.dtype) for v in call.outputs] == list(foretold), call.primitive


def check_first_order(gate: Gate) -> None:
    """vjp and jvp are central differences and each other's transpose; a gate without rules is flat, and its gradient absent."""
    for case in gate.cases():
        with case:
            if case.differentiable:
                if gate.primitive.name not in CUT and not case.narrows:
                    cr.gradcheck(case.real, case.arrays)
                if not gate.has_rules:
                    assert gradients(case, case.arrays, allow_unused=True) == [None] * len(case.places)


def check_second_order(gate: Gate) -> None:
    """The rules can be differentiated again, in both modes."""
    for case in gate.cases():
        with case:
            if case.differentiable and gate.has_rules and not case.narrows:
                cr.gradgradcheck(case.real, case.arrays, directions=1)


def check_float32(gate: Gate) -> None:
    """float32 stays float32, in the value, the cotangents and the tangents, and is near float64."""
    for case in gate.cases():
        with case:
            wide = case(*case.arrays)
            arrays = [frozen(np.float32(x)) for x in case.arrays]
            named = {call.params.get("dtype") for call in calls_of(case, arrays)}
            for out, expected in zip(case(*arrays), wide, strict=True):
                kept = expected.dtype in named or not case.places
                assert out.dtype == (expected.dtype if kept else NARROW.get(expected.dtype, expected.dtype))
                if out.dtype.kind in "fc":
                    np.testing.assert_allclose(np.asarray(out), np.asarray(expected), rtol=2e-3, atol=2e-4)
            if case.differentiable and gate.has_rules:
                for ct, x in zip(gradients(case, arrays, allow_unused=True), arrays, strict=True):
                    assert ct is None or (ct.shape, ct.dtype) == (x.shape, x.dtype)
                outs, tangents = cr.jvp(case.real, tuple(arrays), tuple(arrays))
                assert [(t.shape, t.dtype) for t in tangents] == [(out.shape, out.dtype) for out in outs]


def check_worlds(gate: Gate) -> None:
    """A backward pass gives the same on bare arrays, when it is recorded, and behind a mask; cotangents have their inputs' shapes."""
    for case in gate.cases():
        with case:
            if not (case.differentiable and gate.has_rules):
                continue
            plain = gradients(case, case.arrays, allow_unused=True)
            recorded = gradients(case, case.arrays, allow_unused=True, create_graph=True)
            masked = gradients(case, case.arrays, allow_unused=True, wrap=lambda out: cr.where(frozen(np.ones(out.shape, bool)), out, 0.0))
            for x, ct, other, behind in zip(case.arrays, plain, recorded, masked, strict=True):
                assert (ct is None) == (other is None) == (behind is None)
                if ct is not None:
                    assert (ct.shape, ct.dtype) == (x.shape, x.dtype)
                    np.testing.assert_allclose(np.asarray(other), np.asarray(ct), rtol=1e-12, atol=1e-12)
                    np.testing.assert_allclose(np.asarray(behind), np.asarray(ct), rtol=1e-12, atol=1e-12)


def check_layouts(gate: Gate) -> None:
    """Strides do not matter: gaps, reversed axes and column-major order give the same values and gradients."""
    for case in gate.cases():
        with case:
            expected = case(*case.arrays)
            differentiable = case.differentiable and gate.has_rules
            cotangents = gradients(case, case.arrays, allow_unused=True) if differentiable else []
            for layout in (gapped, reversed_strides, column_major):
                arrays = [layout(x) for x in case.arrays]
                for out, value in zip(case(*arrays), expected, strict=True):
                    np.testing.assert_allclose(np.asarray(out), np.asarray(value), rtol=1e-10, atol=1e-12)
                if differentiable:
                    for ct, value in zip(gradients(case, arrays, allow_unused=True), cotangents, strict=True):
                        assert (ct is None) == (value is None)
                        if ct is not None:
                            np.testing.assert_allclose(np.asarray(ct), np.asarray(value), rtol=1e-9, atol=1e-11)


def check_batch(gate: Gate) -> None:
    """The batch rule is a loop over examples, whichever inputs are batched."""
    draws = [gate.cases(seed) for seed in range(BATCH)]
    for cases in zip(*draws, strict=True):
        with cases[0]:
            lists = [[call for call in calls_of(case, case.arrays) if call.primitive is gate.primitive] for case in cases]
            for row in zip(*lists, strict=False):
                row = row if all(alike(call, row[0]) for call in row) else (row[0],) * BATCH
                for batched in subsets(len(row[0].values)):
                    check_batch_of(row, batched)


def check_batch_of(row: Sequence[Call], batched: Sequence[bool]) -> None:
    first = row[0]
    examples = [[own if b else shared for b, own, shared in zip(batched, call.values, first.values, strict=True)] for call in row]
    inputs = [new(frozen(np.stack(column)) if b else column[0]) for b, column in zip(batched, zip(*examples, strict=True), strict=True)]
    out = first.primitive.batch(first.primitive, list(batched), inputs, first.params)
    expected = [first.primitive.evaluate(*values, **first.params) for values in examples]
    columns = zip(*expected, strict=True) if first.primitive.outputs else [expected]
    for got, column in zip(out if first.primitive.outputs else (out,), columns, strict=True):
        value = column[0] if isinstance(got, Same) else np.stack(column)
        got = got.value if isinstance(got, Same) else got
        assert got.shape == value.shape, f"batched inputs {batched}"
        assert got.dtype == value.dtype
        np.testing.assert_allclose(np.asarray(got), value, rtol=1e-10, atol=1e-12, err_msg=f"batched inputs {batched}")


def check_refusals(gate: Gate) -> None:
    """What must be refused is, by the named error with the named words, and never by NumPy's own."""
    for refusal in gate.primitive.refuses():
        with Case.of(gate, -1, refusal.args, dict(refusal.kwargs)):
            with pytest.raises(ChainruleError) as caught:
                gate.function(*refusal.args, **refusal.kwargs)
            assert isinstance(caught.value, refusal.error)
            assert refusal.says in str(caught.value)


CHECKS = (
    check_samples,
    check_values,
    check_shapes,
    check_first_order,
    check_second_order,
    check_float32,
    check_worlds,
    check_layouts,
    check_batch,
    check_refusals,
)


def gradients(case: Case, arrays: Sequence[Any], *, wrap: Callable[[Tensor], Tensor] = lambda out: out, **options: Any) -> list[Tensor | None]:
    """Cotangents of the arrays for fixed random cotangents of the outputs."""
    rng = np.random.default_rng(1)
    leaves = [cr.asarray(frozen_like(x)).requires_grad_() for x in arrays]
    outs = [wrap(out) for out in case.real(*leaves)]
    seeds = [cr.asarray(frozen(rng.normal(size=out.shape).astype(out.dtype))) for out in outs]
    kept = [(out, ct) for out, ct in zip(outs, seeds, strict=True) if out.requires_grad]
    if not kept:
        return [None] * len(leaves)
    return list(cr.autograd.grad([out for out, _ in kept], leaves, [ct for _, ct in kept], **options))


def frozen_like(x: Any) -> Any:
    """A read-only view, with the strides that ``x`` has."""
    x = np.asarray(x).view()
    x.flags.writeable = False
    return x


def settled(x: np.ndarray) -> np.ndarray:
    """A new array to whose memory nobody can write any more: a Tensor of it shares that, and has its strides."""
    memory: Any = x
    while isinstance(memory, np.ndarray):
        memory.flags.writeable = False
        memory = memory.base
    return x


def gapped(x: Any) -> Any:
    return settled(np.repeat(x, 2, axis=-1)[..., ::2]) if np.ndim(x) else x


def reversed_strides(x: Any) -> Any:
    return settled(np.flip(np.flip(x).copy())) if np.ndim(x) else x


def column_major(x: Any) -> Any:
    return settled(np.array(x, order="F")) if np.ndim(x) else x


def alike(call: Call, other: Call) -> bool:
    """Whether two draws of a sample differ in values alone."""
    return (
        [(np.shape(v), v.dtype) for v in call.values] == [(np.shape(v), v.dtype) for v in other.values]
        and call.params.keys() == other.params.keys()
        and all(np.array_equal(call.params[key], other.params[key]) for key in call.params)
    )


def subsets(count: int) -> list[tuple[bool, ...]]:
    """Every choice of batched inputs; for many inputs each alone, and all."""
    if count <= 3:
        return [batched for batched in product((False, True), repeat=count) if any(batched)]
    return [*(tuple(i == j for j in range(count)) for i in range(count)), (True,) * count]
