"""Who interprets a gate now, and whose derivatives are being tracked.

One context variable holds the `Mode`. A gate called in the everyday mode computes values and records
its history on the tape; under another interpreter the same function, called with the same
arguments, does what that interpreter says (evaluate bare arrays, write down a graph). Derivative
rules are therefore written once, in ordinary gates.

Tracking is a set of tags, one bit each. Bit 0 belongs to `requires_grad`; every running transform
owns a fresh bit that its inputs carry and that results inherit, so nested derivatives cannot be
confused with one another. The tracked set masks what results inherit: `no_grad` empties it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from chainrule.core.lock import Lock

if TYPE_CHECKING:
    from chainrule.core.node import Node
    from chainrule.core.primitive import Primitive

# What flows through an interpreter is its own business: Tensors, arrays, graph names.
Interpret = Callable[["Primitive", Sequence[Any], Mapping[str, Any]], Any]

BASE = 1
"""The tag of tensors with ``requires_grad``."""


class Tracer(Protocol):
    """Who writes a function down as a graph; Tensors go in and come out."""

    @property
    def tag(self) -> Tag:
        """What is tracked wherever derivatives of the graph may pass."""
        ...

    constants: dict[Any, Any]
    """The arrays that are fixed, by their traced values."""

    layer_names: dict[int, dict[int, str]]
    """For layers that were gone through, the names of those inside them, all by identity."""

    def seen(self, x: Any) -> Any:
        """The traced Tensor that stands for ``x`` while the function is traced."""
        ...

    def constant(self, value: Any) -> Any:
        """A traced Tensor of a fixed value."""
        ...

    def readable(self, x: Any) -> bool:
        """Whether a tensor from outside may be read as numbers, since what is traced runs at once and once only."""
        ...

    def named(self, node: Node, value: Any) -> None:
        """Remember the traced value of a node of the tape."""
        ...

    def gradient(self, node: Node | None, ct: Any) -> None:
        """Name the cotangent of a node after its value; what is written next carries it on. None: the sweep is over."""
        ...

    def follow(self, operation: Any) -> None:
        """Give what is written next the names of an operation of another graph; None: the caller's own again."""
        ...

    def call(self, x: Any, name: str) -> None:
        """Say what a tensor from outside is called."""
        ...

    def assigned(self, x: Any, value: Any) -> None:
        """A traced value takes the place, and the name, of another."""
        ...

    def returning(self, out: Any, layer: Any = None) -> None:
        """The function that calls this, maybe a layer, returns ``out``: its caller's names for that hold."""
        ...

    def returned(self, layer: Any, out: Any) -> None:
        """A layer was called, and returned ``out``."""
        ...

    def building(self) -> None:
        """A layer is about to make its parameters."""
        ...

    def depends(self, owner: Any, label: str) -> None:
        """What is traced may read the attributes of ``owner``, which are no tensors."""
        ...


class Watcher(Protocol):
    """Who looks at every gate while it computes, and at every cotangent; without one nothing is looked at, and nothing is paid."""

    def follow(self, operation: Any) -> None:
        """What is computed next is this operation of a graph; None: the caller's own again."""
        ...

    def gradient(self, node: Node | None, ct: Any) -> None:
        """The complete cotangent of a node, before it is carried on; None: the sweep is over."""
        ...


@dataclass(slots=True, eq=False)
class Mode:
    """What happens to a gate now; never changed once made.

    Attributes
    ----------
    tracking : int
        The tags that results inherit.
    interpret : callable or None
        The interpreter; None computes and records.
    running : int
        The tags that can be tracked: that of `requires_grad` and those of the transforms in progress.
    opaque : int
        The tags whose carriers must not be read as plain numbers, because a derivative would be lost.
    readings : list or None
        Where it is noted that a tensor was read as plain numbers, if anyone wants to know.
    tracer : Tracer or None
        Who writes down what happens, while a function is traced.
    scope : tuple of str
        The path of the layer that is being traced.
    layer : object
        That layer.
    examples : tuple
        While a function is traced for one example of a batch, the number of that example, a traced value, per enclosing batch.
    watch : Watcher or None
        Who looks at values and cotangents; the interpreter is then the watcher's own.
    """

    tracking: int = BASE
    interpret: Interpret | None = None
    running: int = BASE
    opaque: int = 0
    readings: list[None] | None = None
    tracer: Tracer | None = None
    scope: tuple[str, ...] = ()
    layer: Any = None
    examples: tuple[Any, ...] = ()
    watch: Watcher | None = None

    def but(self, *, tracking: int, running: int | None = None, opaque: int | None = None, readings: list[None] | None = None) -> Mode:
        """The same mode with other tags; ``readings`` are not handed on."""
        running = self.running if running is None else running
        opaque = self.opaque if opaque is None else opaque
        return Mode(tracking, self.interpret, running, opaque, readings, self.tracer, self.scope, self.layer, self.examples, self.watch)

    def inside(self, name: str, layer: Any) -> Mode:
        """The same mode in a layer of the one in which it was."""
        scope = (*self.scope, *([name] if name else []))
        return Mode(self.tracking, self.interpret, self.running, self.opaque, self.readings, self.tracer, scope, layer, self.examples, self.watch)

    def watched(self, watch: Watcher | None, interpret: Interpret | None) -> Mode:
        """The same mode under the eyes of a watcher; None: of nobody."""
        return Mode(self.tracking, interpret, self.running, self.opaque, self.readings, self.tracer, self.scope, self.layer, self.examples, watch)


class Settings:
    """Counts every change of a layer's or optimizer's attributes, so that a compiled step need not look at them all."""

    __slots__ = ("version",)

    def __init__(self) -> None:
        self.version = 0


settings = Settings()

EVERYDAY = Mode()
QUIET = Mode(tracking=0)
"""Compute and record nothing: the mode of `no_grad`."""

_mode: ContextVar[Mode] = ContextVar("chainrule mode", default=EVERYDAY)
current: Callable[[], Mode] = _mode.get


@contextmanager
def using(mode: Mode) -> Generator[None]:
    """Interpret gates in ``mode`` inside the block."""
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def tracking_only(tags: int) -> Mode:
    """The mode in force, with only these tags tracked."""
    mode = current()
    if tags == mode.tracking:
        return mode
    return QUIET if mode is EVERYDAY and not tags else mode.but(tracking=tags)


def tracking(tags: int) -> Any:
    """Inside the block results inherit only these tags."""
    return using(tracking_only(tags))


def transforming(bit: int) -> Any:
    """Inside the block a transform with this tag is in progress."""
    mode = current()
    return using(mode.but(tracking=mode.tracking | bit, running=mode.running | bit))


def evaluate(primitive: Primitive, inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    """The interpreter of bare arrays: arrays in, arrays out, nothing recorded."""
    return primitive.evaluate(*inputs, **params)


ARRAYS = Mode(tracking=0, interpret=evaluate)


class _Tracking(ContextDecorator):
    """Sets the tracked tags for a block or for every call of a decorated function."""

    _records: bool

    def __init__(self) -> None:
        self._tokens: list[Token[Mode]] = []

    def _recreate_cm(self) -> _Tracking:
        return type(self)()

    def __enter__(self) -> None:
        self._tokens.append(_mode.set(tracking_only(current().running if self._records else 0)))

    def __exit__(self, *exc: object) -> None:
        _mode.reset(self._tokens.pop())


class no_grad(_Tracking):
    """Context manager and decorator: what is computed inside records no history.

    Examples
    --------
    >>> import chainrule as cr
    >>> w = cr.tensor(2.0, requires_grad=True)
    >>> with cr.no_grad():
    ...     y = w * 3
    >>> y.requires_grad
    False
    """

    _records = False


class enable_grad(_Tracking):
    """Context manager and decorator: records history again inside a `no_grad` block.

    Examples
    --------
    >>> import chainrule as cr
    >>> w = cr.tensor(2.0, requires_grad=True)
    >>> with cr.no_grad(), cr.enable_grad():
    ...     y = w * 3
    >>> y.requires_grad
    True
    """

    _records = True


class Tag:
    """A bit that no transform in progress and no living node shares.

    Nodes that enter a transform hold its tag, and so does whatever carries its tangents; the bit returns to
    the pool when the last of them is gone.
    """

    __slots__ = ("__weakref__", "bit")

    _lock = Lock()
    _taken = BASE
    _forward: ClassVar[dict[int, weakref.ref[Tag]]] = {}
    forward_bits = 0
    """The union of the bits of living forward-mode tags."""

    def __init__(self, *, forward: bool = False) -> None:
        with Tag._lock.here:
            self.bit = ~Tag._taken & (Tag._taken + 1)
            Tag._taken |= self.bit
            if forward:
                Tag.forward_bits |= self.bit
                Tag._forward[self.bit] = weakref.ref(self)

    def __del__(self) -> None:
        with Tag._lock.here:
            Tag._taken &= ~self.bit
            Tag.forward_bits &= ~self.bit
            Tag._forward.pop(self.bit, None)

    @staticmethod
    def outermost_first(bits: int) -> list[Tag]:
        """The forward-mode tags among the bits, in the order in which their transforms began."""
        found = (made() for bit, made in tuple(Tag._forward.items()) if bit & bits)
        return [tag for tag in found if tag is not None]
