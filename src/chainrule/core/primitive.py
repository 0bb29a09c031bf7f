"""The record of a gate, the table of all records, and the names of the public functions.

All that the system knows of an operation stands in one `Primitive`. Its rules are plain functions
that ask by parameter name for what they read:

========== ====================================================================
name       what the rule receives
========== ====================================================================
``ct``     the cotangent of the output (a tuple, None where absent, for several outputs)
``t``      the tangent of one input
``out``    the output
``to``     shape and dtype of the input whose cotangent is computed (all of them, as a
           tuple, if one rule serves every input)
an input   the value of that input; ``*xs`` in `inputs` means one tuple of all inputs
a keyword  that parameter of the call
========== ====================================================================

What the backward pass must save is read off those names, so it cannot fall out of step with the
rules. Rules are written in gates: given arrays they compute, given Tensors they can be
differentiated again. Only ``eval`` sees arrays alone; if its first parameter is ``xp`` it is given
the array namespace, else it is called with the inputs as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from time import time
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, ChainruleError, LinAlgError
from chainrule.core.variable import Variable, leaked

# Rules take and give whatever is interpreted now, hence Any.
Rule = Callable[..., Any]
Partial = Rule | str | float
Pull = Callable[[Any, tuple[Any, ...], Any, Any], Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """Arguments that a gate takes; its rules are tested on them.

    Parameters
    ----------
    args, kwargs
        For the public function; floating-point arrays among them are differentiated.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Refusal:
    """Arguments that a gate must refuse, with the error and a part of its text."""

    args: tuple[Any, ...]
    error: type[ChainruleError]
    says: str
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Same(NamedTuple):
    """Of the several outputs of a gate's batch rule one that is the same for every example: it has no batch axis."""

    value: Any


@dataclass(frozen=True, eq=False, kw_only=True)
class Primitive:
    """All that the system knows about one gate.

    Parameters
    ----------
    name : str
    inputs : tuple of str
        Names of the array inputs; a single ``"*xs"`` stands for any number of them.
    aval : rule
        ``aval(*avals, **params) -> Aval`` or a tuple of them; raises a clear error for inputs that
        the gate refuses.
    eval : rule
        The value on plain arrays.
    batch : BatchRule
        ``batch(primitive, batched, inputs, params)``: the output with a batch axis in front, given
        inputs of which those marked in ``batched`` have one in front. Of several outputs some may be `Same`.
    partials : tuple, optional
        Elementwise gates: per input the local derivative, a rule of inputs, ``out`` and parameters, the
        name of an input or "out", or a number; vjp and jvp come from it.
    transpose : rule or tuple, optional
        Gates linear in all differentiable inputs together: cotangent to cotangent; the gate itself is
        the jvp.
    multilinear : bool
        Linear in each input separately: the jvp applies the gate to one tangent at a time.
    vjp, jvp : rule or tuple, optional
        For the rest. A tuple has a rule (or None: no derivative) per input; a single rule serves all
        inputs at once and returns, or for jvp receives, a tuple with None where absent.
    masked_vjp : rule, optional
        In place of a single ``vjp`` behind a gate that masks, for gates that can mask inside.
    cost : rule, optional
        ``cost(*avals, **params)``: how many multiplications it takes, for gates of which the number does not follow from the sizes
        of inputs and outputs (see `autodiff.cost`).
    masks : bool
        Its cotangents hold zeros that stand for "not taken": on their way back 0 times infinity is 0.
    scalar : rule, optional
        ``scalar(k, *xs, **params)``: lowering onto the scalar builder ``k`` (see `core.scalar.Builder`).
    loops : rule, optional
        ``loops(w, out, *xs, **params)``: lowering of a gate that is not elementwise onto the loop builder ``w`` (see `core.nest.Nest`);
        ``out`` is a tuple if there are several. Gates of the kernel "move" with one input need none: where each element comes from is
        what their evaluation makes of the elements' numbers (see `core.lowering`).
    kernel : str, optional
        Name of the kernel family of a gate without scalar lowering.
    numpy : rule, optional
        The value as NumPy source: ``numpy(*operands, **params)`` with the operands' names (see `compiler.numpy_code.Operand`); a
        parameter ``out`` of the rule goes at the end of the call that makes the value. It must give the bits that ``eval`` gives; None
        where it has nothing better than calling that. An ``eval`` that is an operator or a NumPy function needs none.
    onnx : str, optional
        Operator name.
    operator : str, optional
        How Python writes the gate between its two operands, or before its one.
    sign : str, optional
        What pictures write on the gate in place of its name or operator; it may name parameters, as "x^{exponent}" does, and raises what
        follows "^".
    outputs : bool
        Whether the value is a tuple of arrays.
    samples, refuses : callables
        Inputs for the generated tests; ``samples(rng)`` draws from a `numpy.random.Generator`.
    """

    name: str
    inputs: tuple[str, ...]
    aval: Rule
    eval: Rule
    batch: Rule
    partials: tuple[Partial, ...] | None = None
    transpose: Rule | tuple[Rule | None, ...] | None = None
    multilinear: bool = False
    vjp: Rule | tuple[Rule | None, ...] | None = None
    jvp: Rule | tuple[Rule | None, ...] | None = None
    masked_vjp: Rule | None = None
    cost: Rule | None = None
    masks: bool = False
    scalar: Rule | None = None
    loops: Rule | None = None
    kernel: str | None = None
    numpy: Rule | None = None
    onnx: str | None = None
    operator: str = ""
    sign: str = ""
    outputs: bool = False
    samples: Callable[[np.random.Generator], Iterable[Sample]] = lambda rng: ()
    refuses: Callable[[], Iterable[Refusal]] = lambda: ()

    evaluate: Rule = field(init=False, repr=False)
    # A tuple with one per input, or a single one that serves all of them.
    pulls: Any = field(init=False, repr=False)
    masked_pulls: Any = field(init=False, repr=False)
    reads: tuple[frozenset[int], ...] = field(init=False, repr=False)
    keeps: Mapping[int, tuple[bool, ...]] = field(init=False, repr=False)
    special: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        put("evaluate", self.on(np))
        put("keeps", _Keeps(self))
        pulls, masked, reads = self._derive()
        put("pulls", pulls)
        put("masked_pulls", masked)
        put("reads", reads)
        put("special", self.masks or self.outputs or not isinstance(pulls, tuple))

    def _derive(self) -> tuple[Any, Any, tuple[frozenset[int], ...]]:
        if self.partials is not None:
            plain = [_partial_pull(p, self.inputs, _times) for p in self.partials]
            masked = [_partial_pull(p, self.inputs, _times_masked) for p in self.partials]
            return tuple(pull for pull, _ in plain), tuple(pull for pull, _ in masked), tuple(read for _, read in plain)
        rules = self.vjp if self.vjp is not None else self.transpose
        nothing = frozenset[int]()
        if rules is None:
            return (), (), (nothing,) * len(self.inputs)
        if isinstance(rules, tuple):
            made = [(None, nothing) if rule is None else _named_pull(rule, self.inputs) for rule in rules]
            pulls = tuple(pull for pull, _ in made)
            return pulls, pulls, tuple(read for _, read in made)
        pull, read = _named_pull(rules, self.inputs)
        alone = len(self.inputs) == 1 and not self.variadic
        pulls = (pull,) if alone else pull
        masked = pulls if self.masked_vjp is None else _named_pull(self.masked_vjp, self.inputs)[0]
        return pulls, masked, (read,) * len(self.inputs)

    def __repr__(self) -> str:
        return f"Primitive({self.name!r})"

    def __reduce__(self) -> Any:
        """Pickled by name: rules are functions, and those of the table are there wherever the library is."""
        if TABLE.get(self.name) is not self:
            says = f"the gate {self.name} is not in the table, so that it cannot be pickled"
            raise ArgumentError(says, mend="pickle the function that was traced, or what it returns")
        return _of_table, (self.name,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Primitive:
        return self

    @property
    def variadic(self) -> bool:
        return self.inputs[:1] != () and self.inputs[0].startswith("*")

    @property
    def saves(self) -> tuple[str, ...]:
        """Names of the inputs and ``out`` that a backward pass to every input reads."""
        names = (*self.inputs, "out")
        return tuple(names[i] for i in sorted(frozenset[int]().union(*self.reads)))

    def on(self, xp: Any) -> Rule:
        """The evaluation on arrays of the namespace ``xp``."""
        names = getattr(getattr(self.eval, "__code__", None), "co_varnames", ())
        return partial(self.eval, xp) if names[:1] == ("xp",) else self.eval

    def diagnose(self, values: Sequence[Any], params: Mapping[str, Any], error: Exception) -> Exception:
        """The clear error for an evaluation that failed with ``error``."""
        outside = next((v for v in values if isinstance(v, Variable)), None)
        if outside is not None:
            return leaked(outside)
        avals = [Aval(np.shape(v), np.result_type(v)) for v in values]
        try:
            self.aval(*avals, **params)
        except ChainruleError as clear:
            return clear
        except Exception as unclear:
            error = unclear if isinstance(error, ChainruleError) else error
        if isinstance(error, (ChainruleError, MemoryError, Warning)):
            return error
        kind = LinAlgError if isinstance(error, np.linalg.LinAlgError) else ArgumentError
        operands = ", ".join(map(str, avals))
        return kind(f"{self.name}({operands}): {error}")


class _Keeps(dict[int, tuple[bool, ...]]):
    """Per set of inputs that need cotangents (a bit mask): which inputs, and lastly the output, to save."""

    def __init__(self, primitive: Primitive) -> None:
        super().__init__()
        self._primitive = primitive

    def __missing__(self, tracked: int) -> tuple[bool, ...]:
        primitive = self._primitive
        rules = primitive.reads if not primitive.variadic else primitive.reads * bool(tracked)
        read = frozenset[int]().union(*(r for i, r in enumerate(rules) if primitive.variadic or tracked >> i & 1))
        self[tracked] = kept = tuple(i in read for i in range(len(primitive.inputs) + 1))
        return kept


TABLE: dict[str, Primitive] = {}
"""Every gate by name."""

LOADED = time()
"""When the library was loaded. What has changed in its files since is not what runs."""


def _of_table(name: str) -> Primitive:
    return TABLE[name]


functions: Any = SimpleNamespace()
"""Public functions by name, so that lower floors can call them; the attributes come with `ops`."""

F = TypeVar("F", bound=Callable[..., Any])


def public(function: F) -> F:
    """Enter a public function under its name."""
    setattr(functions, function.__name__, function)
    return function


def register(primitive: Primitive) -> Primitive:
    """Enter a record in the table."""
    if primitive.name in TABLE:
        raise ArgumentError(f"a gate named {primitive.name!r} is registered already", mend="give the new gate a name of its own")
    TABLE[primitive.name] = primitive
    return primitive


def reads_of(rule: Rule) -> tuple[str, ...]:
    """Parameter names of a rule."""
    code = rule.__code__
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def call(rule: Rule, given: Mapping[str, Any]) -> Any:
    """Call a rule with what it asks for by name."""
    return rule(**{name: given[name] for name in reads_of(rule)})


def _times(ct: Any, p: Any) -> Any:
    return ct * p


def _times_masked(ct: Any, p: Any) -> Any:
    return functions.masked_multiply(ct, p)


def _partial_pull(p: Partial, inputs: tuple[str, ...], times: Callable[[Any, Any], Any]) -> tuple[Pull, frozenset[int]]:
    if isinstance(p, str):
        place = (*inputs, "out").index(p)
        if times is _times:
            return (lambda ct, saved, node, to: ct * saved[place]), frozenset((place,))
        return (lambda ct, saved, node, to: times(ct, saved[place])), frozenset((place,))
    if not callable(p):
        if p == 0:
            return (lambda ct, saved, node, to: functions.zeros(to.shape, dtype=to.dtype)), frozenset()
        if p == 1:
            return (lambda ct, saved, node, to: ct), frozenset()
        if p == -1:
            return (lambda ct, saved, node, to: -ct), frozenset()
        return (lambda ct, saved, node, to: ct * p), frozenset()
    rule, names = p, (*inputs, "out")
    named = reads_of(rule)
    params = tuple(name for name in named if name not in names)
    places = tuple(names.index(name) for name in named if name in names)
    if params:

        def pull(ct: Any, saved: tuple[Any, ...], node: Any, to: Any) -> Any:
            given = {names[place]: saved[place] for place in places}
            return times(ct, rule(**given, **{name: node.params[name] for name in params}))

        return pull, frozenset(places)
    if len(places) == 1:
        (one,) = places
        if times is _times:
            return (lambda ct, saved, node, to: ct * rule(saved[one])), frozenset(places)
        return (lambda ct, saved, node, to: times(ct, rule(saved[one]))), frozenset(places)
    get = itemgetter(*places)
    return (lambda ct, saved, node, to: times(ct, rule(*get(saved)))), frozenset(places)


def _named_pull(rule: Rule, inputs: tuple[str, ...]) -> tuple[Pull, frozenset[int]]:
    frame = ("ct", "to", *(name.lstrip("*") for name in inputs), "out")
    named = reads_of(rule)
    values = tuple(name for name in named if name in frame)
    params = tuple(name for name in named if name not in frame)
    places = tuple(frame.index(name) for name in values)
    read = frozenset(place - 2 for place in places if place >= 2)
    if params:

        def pull(ct: Any, saved: tuple[Any, ...], node: Any, to: Any) -> Any:
            present = (ct, to, *saved)
            given = {name: present[place] for name, place in zip(values, places, strict=True)}
            return rule(**given, **{name: node.params[name] for name in params})

        return pull, read
    if places == (0,):
        return (lambda ct, saved, node, to: rule(ct)), read
    get = itemgetter(*places)
    return (lambda ct, saved, node, to: rule(*get((ct, to, *saved)))), read
