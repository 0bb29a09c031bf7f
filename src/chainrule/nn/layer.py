"""Layer: a function with parameters, made of smaller ones.

A layer makes its parameters when it first sees an input, from that input's shape; until then it says
so. Parameters, buffers and sublayers are plain attributes, or stand in lists, tuples and dicts that
are; the tree of layers is read off them whenever it is asked for. Nothing here computes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from inspect import signature
from operator import add
from reprlib import recursive_repr
from types import BuiltinFunctionType, FunctionType
from typing import Any, Self

import numpy as np

from chainrule.core import tree
from chainrule.core.aval import Aval, Dtype, Shape
from chainrule.core.errors import ArgumentError, ChainruleError, LayerError
from chainrule.core.interp import EVERYDAY, current, no_grad, settings, using
from chainrule.core.lock import Lock
from chainrule.nn.initializers import Initializer, fetch
from chainrule.nn.regularizers import Regularizer
from chainrule.nn.regularizers import fetch as fetch_regularizer
from chainrule.nn.showing import show
from chainrule.nn.spec import InputSpec
from chainrule.nn.state import Differences, Parameters, cast, floating, load
from chainrule.nn.summary import Summary, summarize
from chainrule.ops.creation import asarray
from chainrule.ops.gate import alias
from chainrule.tensor import Tensor, new


class Layer:
    """A function with parameters; the base of all layers.

    A layer of one's own defines ``call``, and either makes its parameters and sublayers in ``__init__`` or,
    where they depend on the input's shape, in ``build``.

    Parameters
    ----------
    name : str, optional
        What messages call the layer; its class's name if not given.
    dtype : dtype
        Of the parameters; see also `astype`.

    Attributes
    ----------
    training : bool
        Whether layers such as Dropout behave as in training; set by `train` and `eval`.
    input_spec : InputSpec or tuple of InputSpec, optional
        What the positional inputs must be.

    Examples
    --------
    >>> import chainrule as cr
    >>> class Scale(cr.nn.Layer):
    ...     def build(self, input_shape):
    ...         self.factor = self.add_parameter("factor", input_shape[-1:], "ones")
    ...
    ...     def call(self, x):
    ...         return x * self.factor
    >>> layer = Scale()
    >>> layer([[1.0, 2.0]]).sum().backward()
    >>> layer.factor.grad
    tensor([1., 2.])
    """

    name: str | None = None
    dtype: Dtype = np.dtype("float32")
    training: bool = True
    built: bool = False
    input_spec: InputSpec | tuple[InputSpec, ...] | None = None
    _parameters: dict[str, None]
    _buffers: dict[str, None]
    _regularizers: dict[str, Regularizer]
    _first: tuple[list[Aval], tree.Structure] | None = None

    # In __new__, so that a subclass may set attributes before, or without, super().__init__().
    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        layer = super().__new__(cls)
        layer.__dict__.update(_parameters={}, _buffers={}, _regularizers={})
        return layer

    def __init__(self, *, name: str | None = None, dtype: Any = "float32") -> None:
        if not isinstance(name, str | None):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may not check types
            raise ArgumentError(f"{type(self).__name__}: name={name!r}", mend="a name is a string")
        self.name = name
        # None has another meaning for NumPy: double precision.
        self.dtype = floating("float32" if dtype is None else dtype, self.label)

    def __setattr__(self, name: str, value: Any) -> None:
        if value.__class__ is Tensor and value.is_leaf and value.requires_grad:
            self._parameters[name] = None
        settings.version += 1
        object.__setattr__(self, name, value)

    # What a layer of one's own defines.

    def build(self, *input_shapes: Any, **none: Any) -> None:
        """Make what depends on the shapes of the inputs; called once, before the first call."""

    def call(self, *inputs: Any, **options: Any) -> Any:
        """The layer's output."""
        raise LayerError(f"{type(self).__name__} does not define what it computes", mend="define its method call(self, x)")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """The layer's output for these inputs.

        Raises
        ------
        LayerError
            If an input is not what the layer takes; it names the layer's path.
        """
        try:
            inputs = tuple(x if x.__class__ is Tensor else _lifted(x) for x in inputs)
            if self.input_spec is not None:
                self._check(inputs)
            if not self.built:
                self._build(inputs)
            mode = current()
            if mode.tracer is None and mode.watch is None:
                out = self.call(*inputs, **options)
            else:
                inside = mode.inside(self._name_in(mode.layer, mode.tracer.layer_names if mode.tracer else None), self)
                if mode.tracer is not None:
                    mode.tracer.depends(self, ".".join(inside.scope) or self.label)
                with using(inside):
                    out = self.call(*inputs, **options)
                if mode.tracer is not None:
                    mode.tracer.returning(out, self)
            return alias(out) if inputs and out is inputs[0] else out
        except ChainruleError as error:
            _locate(error, self)
            raise

    def _build(self, inputs: tuple[Any, ...]) -> None:
        tracer = current().tracer
        if tracer is not None and type(self).build is not Layer.build:
            tracer.building()
        # Parameters are values even where the first call is being traced.
        with _building.here, using(EVERYDAY):
            if self.built:
                # Another thread was quicker.
                return
            self.build(*(_shapes(x) for x in inputs))
            self.built = True
        leaves, structure = tree.flatten(inputs)
        self.__dict__["_first"] = [Aval(x.shape, x.dtype) for x in leaves], structure

    def _check(self, inputs: tuple[Any, ...]) -> None:
        specs = self.input_spec if isinstance(self.input_spec, tuple) else (self.input_spec,)
        for place, (spec, x) in enumerate(zip(specs, inputs, strict=False)):
            # A later input that is left out is the layer's affair.
            given = x is not None or place == 0
            if spec is not None and given and not (isinstance(x, Tensor) and spec.accepts(x)):
                raise LayerError(f"{self.label} takes {spec.wanted}, but got {spec.got(x)}", mend=spec.mend)

    @property
    def label(self) -> str:
        """What messages call the layer."""
        kind = type(self).__name__
        return kind if self.name is None else f"{kind} {self.name!r}"

    def _name_in(self, outer: Layer | None, known: dict[int, dict[int, str]] | None = None) -> str:
        """The name of this layer among another's attributes, or ''; ``known`` keeps those of all, where many are asked for."""
        if outer is None:
            return ""
        names = {} if known is None else known.setdefault(id(outer), {})
        if id(self) not in names:
            names.update((id(member), name) for name, member in reversed([*outer._members()]))
        return names.setdefault(id(self), "")

    # Parameters, buffers and sublayers.

    def add_parameter(
        self,
        name: str,
        shape: Shape,
        initializer: Initializer | str,
        *,
        fans: tuple[int, int] | None = None,
        trainable: bool = True,
        regularizer: Regularizer | str | None = None,
    ) -> Tensor:
        """A parameter drawn by an initializer, kept as the attribute ``name``.

        Parameters
        ----------
        fans : (int, int), optional
            How many inputs an output depends on and the reverse, where the shape does not tell.
        trainable : bool
            Whether it requires a gradient.
        regularizer : Regularizer or str, optional
            What its size costs; a part of the layer's `penalty`.
        """
        price = fetch_regularizer(regularizer)
        if price is not None:
            self._regularizers[name] = price
        value = fetch(initializer)(tuple(shape), self.dtype, fans)
        parameter = new(np.asarray(value._value, order="C")).requires_grad_(trainable)
        self._parameters[name] = None
        setattr(self, name, parameter)
        return parameter

    def add_buffer(self, name: str, value: Any) -> Tensor:
        """A Tensor that belongs to the state but is not trained, kept as the attribute ``name``; change it with ``assign``."""
        buffer = asarray(value).detach()
        self._buffers[name] = None
        setattr(self, name, buffer)
        return buffer

    def _members(self) -> Iterator[tuple[str, Any]]:
        """Tensors and layers among the attributes, containers opened, with their names."""
        stack: list[tuple[str, Any]] = []
        for attribute, item in list(self.__dict__.items()):
            if item.__class__ in _PLAIN or attribute in _RECORDS:
                continue
            stack.append((attribute, item))
            while stack:
                name, value = stack.pop()
                if isinstance(value, (Tensor, Layer)):
                    yield name, value
                elif isinstance(value, (list, tuple)):
                    stack.extend((f"{name}.{i}", inner) for i, inner in reversed([*enumerate(value)]))
                elif isinstance(value, dict):
                    stack.extend((f"{name}.{key}", inner) for key, inner in reversed(value.items()))

    def _walk(self, prefix: str = "") -> Iterator[tuple[str, Layer, list[tuple[str, Any]]]]:
        """The layer itself and all layers inside it, each once, outer before inner, with their members."""
        seen = {id(self)}
        stack: list[tuple[str, Layer]] = [(prefix, self)]
        while stack:
            path, layer = stack.pop()
            members = list(layer._members())
            yield path, layer, members
            inside: list[tuple[str, Layer]] = []
            for name, member in members:
                if isinstance(member, Layer) and id(member) not in seen:
                    seen.add(id(member))
                    inside.append((f"{path}.{name}" if path else name, member))
            stack.extend(reversed(inside))

    def named_layers(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """The layer itself, under the name ``prefix``, and all layers inside it; each once, outer before inner."""
        return ((path, layer) for path, layer, _ in self._walk(prefix))

    def layers_inside(self) -> Iterator[Layer]:
        """The layer itself and all layers inside it."""
        return (layer for _, layer in self.named_layers())

    def _own_tensors(self, members: Iterable[tuple[str, Any]] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers of this layer alone, by name."""
        for name, member in self._members() if members is None else members:
            if isinstance(member, Tensor):
                if name not in self._parameters and member.is_leaf and member.requires_grad:
                    # Leaves in lists become known as parameters when they are first seen, and stay so when frozen.
                    self._parameters[name] = None
                if name in self._parameters or name in self._buffers:
                    yield name, member

    def _named_tensors(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        seen: set[int] = set()
        for path, layer, members in self._walk():
            known = layer.__dict__[kind]
            for name, member in layer._own_tensors(members):
                if name in known and id(member) not in seen:
                    seen.add(id(member))
                    yield (f"{path}.{name}" if path else name), member

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Names and parameters of this layer and all inside it; shared ones once.

        Raises
        ------
        LayerError
            If a layer has not made its parameters yet.
        """
        self._require_built()
        return self._named_tensors("_parameters")

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Names and buffers of this layer and all inside it."""
        return self._named_tensors("_buffers")

    def parameters(self) -> Parameters:
        """The parameters of this layer and all inside it, as they are when the result is used.

        An optimizer may therefore be made before the first call, when layers have none yet.
        """
        return Parameters(self)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze (False) or thaw (True) all parameters."""
        for _, parameter in self.named_parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def _waiting(self) -> Iterator[tuple[str, Layer]]:
        """Layers that still have to make their parameters."""
        return ((path, layer) for path, layer in self.named_layers() if not layer.built and type(layer).build is not Layer.build)

    def _require_built(self) -> None:
        for path, layer in self._waiting():
            where = f"{type(self).__name__}.{path} ({layer.label})" if path else layer.label
            raise LayerError(
                f"{where} has no parameters yet: it makes them for its first input", mend="call the model once, or model.initialize(input_shape)"
            )

    def initialize(self, *input_shapes: Shape, dtype: Any = "float32") -> Self:
        """Make all parameters, by one call in evaluation mode on zeros of these shapes.

        Examples
        --------
        >>> import chainrule as cr
        >>> model = cr.nn.Dense(3).initialize((1, 2))
        >>> [(name, parameter.shape) for name, parameter in model.named_parameters()]
        [('kernel', (2, 3)), ('bias', (3,))]
        """
        with self.evaluating(), using(EVERYDAY), no_grad():
            self(*(asarray(np.zeros(shape, dtype)) for shape in input_shapes))
        return self

    def penalty(self) -> Tensor | float:
        """The sum of what the parameters of this layer and all inside it cost; 0.0 if none has a regularizer.

        Examples
        --------
        >>> import chainrule as cr
        >>> layer = cr.nn.Dense(1, kernel_initializer="ones", kernel_regularizer="l2").initialize((1, 3))
        >>> round(layer.penalty().item(), 3)
        0.03
        """
        prices = [price(getattr(layer, name)) for layer in self.layers_inside() for name, price in layer._regularizers.items()]
        return reduce(add, prices) if prices else 0.0

    def summary(self, *input_shapes: Shape, dtype: Any = "float32") -> Summary:
        """A table of this layer and all inside it: shapes, parameters, operations, bytes.

        Parameters
        ----------
        *input_shapes : tuple of int
            Of the inputs, with the batch; those of the first call if not given.
        dtype : dtype
            Of the inputs, if their shapes are given.

        Returns
        -------
        Summary
            To be printed, or read row by row.

        Raises
        ------
        LayerError
            If no shapes are given and the layer was never called.

        Examples
        --------
        >>> import chainrule as cr
        >>> cr.nn.Dense(4).summary((8, 3)).parameters
        16
        """
        if input_shapes:
            if next(self._waiting(), None) is not None:
                self.initialize(*input_shapes, dtype=dtype)
            avals = [Aval(tuple(shape), np.dtype(dtype)) for shape in input_shapes]
            return summarize(self, avals, tree.flatten((0,) * len(avals))[1])
        if self._first is None:
            raise LayerError(
                f"{self.label} was not called yet: its shapes are not known", mend="pass the inputs' shapes: model.summary((32, 28, 28, 1))"
            )
        return summarize(self, *self._first)

    # State and mode.

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers by name: a snapshot that later steps do not change.

        Raises
        ------
        LayerError
            If a layer has not made its parameters yet.
        """
        return {name: tensor.detach() for name, tensor in (*self.named_parameters(), *self.named_buffers())}

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> Differences:
        """Let parameters and buffers take the values of a state.

        Parameters
        ----------
        state : mapping of str to Tensor or array_like
        strict : bool
            Refuse a state with missing or unexpected names; else they are returned.

        Raises
        ------
        LayerError
            If names or shapes differ (it lists every difference), or a layer has not made its parameters
            yet. Nothing is loaded then.
        """
        return load(self, state, strict)

    def astype(self, dtype: Any) -> Self:
        """Convert all parameters and buffers that are floating-point, in place; what is made later gets this dtype too.

        Parameters
        ----------
        dtype : dtype
            Floating-point. The dtype of inputs is the caller's affair: with others, the wider one wins.

        Returns
        -------
        Layer
            The layer itself.

        Notes
        -----
        Parameters keep their identity, so an optimizer that was made before goes on, and converts its moments
        at its next step; gradients are forgotten.

        Examples
        --------
        >>> import chainrule as cr
        >>> model = cr.nn.Sequential([cr.nn.Dense(2), cr.nn.ReLU()]).astype("float64").initialize((1, 3))
        >>> [parameter.dtype.name for parameter in model.parameters()]
        ['float64', 'float64']
        """
        cast(self, dtype)
        return self

    def train(self, mode: bool = True) -> Self:
        """Set training mode (or evaluation mode) for this layer and all inside it."""
        for layer in self.layers_inside():
            layer.training = mode
        return self

    def eval(self) -> Self:
        """Set evaluation mode for this layer and all inside it."""
        return self.train(False)

    @contextmanager
    def evaluating(self) -> Generator[None]:
        """Inside the block all layers are in evaluation mode; afterwards each is in the mode that it was in.

        Examples
        --------
        >>> import chainrule as cr
        >>> layer = cr.nn.Dropout(0.5)
        >>> with layer.evaluating():
        ...     layer([1.0, 2.0])
        tensor([1., 2.])
        >>> layer.training
        True
        """
        modes = [(layer, layer.training) for layer in self.layers_inside()]
        self.eval()
        try:
            yield
        finally:
            for layer, training in modes:
                layer.training = training

    def get_config(self) -> dict[str, Any]:
        """The arguments that make such a layer anew: every argument of ``__init__`` that is kept as an attribute of its name."""
        missing = object()
        found = {name: getattr(self, name, missing) for name in signature(type(self)).parameters}
        return {name: value for name, value in found.items() if value is not missing}

    @recursive_repr()
    def __repr__(self) -> str:
        return show(self)


_PLAIN = frozenset({bool, int, float, str, type(None), BuiltinFunctionType, FunctionType, np.dtype, InputSpec})
"""Types of attributes that hold no tensors and are not worth a look."""
_RECORDS = frozenset({"_parameters", "_buffers", "_regularizers", "_first"})
_building = Lock()


def _lifted(x: Any) -> Any:
    return tree.map(asarray, x) if isinstance(x, (tuple, dict)) else x if x is None else asarray(x)


def _shapes(x: Any) -> Any:
    return tree.map(lambda leaf: leaf.shape, x)


def _locate(error: ChainruleError, layer: Layer) -> None:
    """Put the layer in front of the path that an error has gathered on its way out."""
    trail: list[Layer] = error.__dict__.setdefault("trail", [])
    if not trail or trail[-1] is not layer:
        trail.append(layer)
    path = [trail[-1].label]
    path += [inner._name_in(outer) or inner.label for outer, inner in zip(trail[:0:-1], trail[-2::-1], strict=True)]
    error.layer = ".".join(path) + (f" ({trail[0].label})" if len(trail) > 1 else "")
