"""Layers as plain data and back: names and numbers that JSON can hold.

Nothing is ever unpickled or evaluated: a name is looked up among the layers known here, or among those
that the caller passes, and called with its arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from chainrule.core.errors import ChainruleError, LayerError, look_up
from chainrule.nn.activations import ACTIVATIONS, Function, get
from chainrule.nn.initializers import (
    Constant,
    Identity,
    Initializer,
    Orthogonal,
    RandomNormal,
    RandomUniform,
    TruncatedNormal,
    VarianceScaling,
    name_of,
)
from chainrule.nn.layer import Layer
from chainrule.nn.regularizers import L1, L1L2, L2, Regularizer

_PARTS = (Constant, Identity, Orthogonal, RandomNormal, RandomUniform, TruncatedNormal, VarianceScaling, L1, L2, L1L2)
CLASSES: dict[str, Callable[..., Any]] = {kind.__name__: kind for kind in _PARTS}
"""What `deserialize` may make, by name; `chainrule.nn` enters its layers."""


def serialize(layer: Layer | Function) -> Any:
    """The layer's class and arguments, without its parameters, as data for JSON.

    A layer that stands in several places is described where it comes first, with a number under "shared", and named by that number elsewhere.

    Parameters
    ----------
    layer : Layer or callable
        Or an activation, which is described by its name.

    Returns
    -------
    dict, or str for an activation

    Raises
    ------
    LayerError
        If it is no layer or activation, or an argument of it is neither plain data, nor a layer, a known activation or an initializer.

    Examples
    --------
    >>> import chainrule as cr
    >>> data = cr.nn.serialize(cr.nn.Dropout(0.5)); data
    {'class': 'Dropout', 'config': {'rate': 0.5, 'name': None}}
    >>> cr.nn.deserialize(data)
    Dropout(rate=0.5)
    >>> cr.nn.serialize(cr.nn.activations.relu)
    'relu'
    """
    if not isinstance(layer, Layer) and not callable(layer):
        raise LayerError(
            f"no layer or activation, but a {type(layer).__name__}", mend="pass the layer itself, or an activation such as nn.get('relu')"
        )
    return _Describer().plain(layer, "the function")


def deserialize(data: Mapping[str, Any] | str, custom_objects: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """A new layer as `serialize` described it; its parameters are made anew.

    Parameters
    ----------
    data : mapping, or str for an activation
    custom_objects : mapping of str to callable, optional
        Classes and functions of one's own, by name.

    Returns
    -------
    Layer, or a callable for an activation

    Raises
    ------
    ChainruleError
        If the data is of another form, a name is not known (a `LayerError`), or an argument makes no sense. Nothing but the
        classes listed here and those passed is ever called.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.deserialize({"class": "Dense", "config": {"units": 3}})
    Dense(units=3)
    """
    if isinstance(data, str):
        return get((custom_objects or {}).get(data, data))
    try:
        return _Maker({**CLASSES, **(custom_objects or {})}, custom_objects or {}).layer(data)
    except RecursionError:
        raise LayerError("the data is nested too deeply", mend="pass what nn.serialize returned") from None


class _Describer:
    """Layers and their arguments as plain data; remembers which layers it has met."""

    def __init__(self) -> None:
        self._met: dict[int, dict[str, Any]] = {}
        self._shared = 0

    def layer(self, layer: Layer) -> dict[str, Any]:
        known = self._met.get(id(layer))
        if known is not None:
            if "shared" not in known:
                known["shared"], self._shared = self._shared, self._shared + 1
            return {"shared": known["shared"]}
        kind = type(layer).__name__
        data = self._met[id(layer)] = {"class": kind}
        data["config"] = {name: self.plain(value, f"{kind}.{name}") for name, value in layer.get_config().items()}
        return data

    def plain(self, value: Any, where: str) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (list, tuple)):
            return [self.plain(item, where) for item in value]
        if isinstance(value, dict):
            return {key: self.plain(item, where) for key, item in value.items()}
        if isinstance(value, np.dtype):
            return value.name
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, Layer):
            return self.layer(value)
        if isinstance(value, (Initializer, Regularizer)):
            return (name_of(value) if isinstance(value, Initializer) else None) or _of_dataclass(value, where)
        name = getattr(value, "__name__", None)
        if name is not None and callable(value):
            return name if ACTIVATIONS.get(name) is value else {"function": name}
        raise LayerError(f"{where} is a {type(value).__name__}, which has no plain form", mend="give the layer a get_config that returns plain data")


def _of_dataclass(value: Any, where: str) -> Any:
    if not dataclasses.is_dataclass(value):
        raise LayerError(f"{where} is a {type(value).__name__}, which has no plain form", mend="make it a dataclass")
    config = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {"class": type(value).__name__, "config": {name: item.item() if isinstance(item, np.generic) else item for name, item in config.items()}}


class _Maker:
    """Plain data as layers again; remembers those that have several places."""

    def __init__(self, known: Mapping[str, Callable[..., Any]], functions: Mapping[str, Callable[..., Any]]) -> None:
        self._known = known
        self._functions = functions
        self._shared: dict[Any, Any] = {}

    def layer(self, data: Any) -> Any:
        name, config, number = (data.get(key) for key in ("class", "config", "shared")) if isinstance(data, Mapping) else (None, None, None)
        if isinstance(number, int) and name is None and number in self._shared:
            return self._shared[number]
        if not isinstance(name, str) or not isinstance(config, Mapping) or not isinstance(number, int | None):
            raise LayerError("a layer's data needs 'class', a name, and 'config', a mapping", mend="pass what nn.serialize returned")
        kind = look_up("layer class", name, self._known, LayerError, otherwise="pass it by name in custom_objects")
        arguments = {key: self.value(value) for key, value in config.items()}
        try:
            made = kind(**arguments)
        except ChainruleError:
            raise
        except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
            raise LayerError(f"{name} cannot be made from its data: {error}", mend="write it with this version's nn.serialize") from None
        if number is not None:
            self._shared[number] = made
        return made

    def value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        if "class" in value or set(value) == {"shared"}:
            return self.layer(value)
        if set(value) == {"function"}:
            return look_up("function", value["function"], self._functions, LayerError, otherwise="pass it by name in custom_objects")
        return {key: self.value(item) for key, item in value.items()}
