"""Layers as plain data and back: names and numbers that JSON can hold.

Nothing is ever unpickled or evaluated: a name is looked up among the layers known here, or among those
that the caller passes, and called with its arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np

from chainrule.core.errors import LayerError
from chainrule.nn.activations import ACTIVATIONS
from chainrule.nn.initializers import Constant, Initializer, VarianceScaling, name_of
from chainrule.nn.layer import Layer
from chainrule.nn.regularizers import L1, L1L2, L2, Regularizer

CLASSES: dict[str, Callable[..., Any]] = {kind.__name__: kind for kind in (Constant, VarianceScaling, L1, L2, L1L2)}
"""What `deserialize` may make, by name; `chainrule.nn` enters its layers."""


def serialize(layer: Layer) -> dict[str, Any]:
    """The layer's class and arguments, without its parameters, as data for JSON.

    Parameters
    ----------
    layer : Layer

    Returns
    -------
    dict

    Raises
    ------
    LayerError
        If an argument is neither plain data, nor a layer, a known activation or an initializer.

    Examples
    --------
    >>> import chainrule as cr
    >>> data = cr.nn.serialize(cr.nn.Dropout(0.5)); data
    {'class': 'Dropout', 'config': {'rate': 0.5, 'name': None}}
    >>> cr.nn.deserialize(data)
    Dropout(rate=0.5)
    """
    return {
        "class": type(layer).__name__,
        "config": {name: _plain(value, f"{type(layer).__name__}.{name}") for name, value in layer.get_config().items()},
    }


def deserialize(data: Mapping[str, Any], custom_objects: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """A new layer as `serialize` described it; its parameters are made anew.

    Parameters
    ----------
    data : mapping
    custom_objects : mapping of str to callable, optional
        Classes and functions of one's own, by name.

    Returns
    -------
    Layer

    Raises
    ------
    LayerError
        If the data is of another form, or a name is not known.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.deserialize({"class": "Dense", "config": {"units": 3}})
    Dense(units=3)
    """
    known = {**CLASSES, **(custom_objects or {})}
    name, config = data.get("class"), data.get("config")
    if not isinstance(name, str) or not isinstance(config, Mapping):
        raise LayerError("a layer's data needs 'class', a name, and 'config', a mapping", mend="pass what nn.serialize returned")
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? If not, pass" if near else "pass"
        raise LayerError(f"no layer class {name!r}", mend=f"{hint} it by name in custom_objects")
    try:
        return known[name](**{key: _made(value, custom_objects) for key, value in config.items()})
    except TypeError as error:
        raise LayerError(f"{name} cannot be made from its data: {error}", mend="write it with this version's nn.serialize") from None


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item, where) for key, item in value.items()}
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, Layer):
        return serialize(value)
    if isinstance(value, Initializer):
        return name_of(value) or _of_dataclass(value, where)
    if isinstance(value, Regularizer):
        return _of_dataclass(value, where)
    name = getattr(value, "__name__", None)
    if name is not None and callable(value):
        return name if ACTIVATIONS.get(name) is value else {"function": name}
    raise LayerError(f"{where} is a {type(value).__name__}, which has no plain form", mend="give the layer a get_config that returns plain data")


def _of_dataclass(value: Any, where: str) -> Any:
    if not dataclasses.is_dataclass(value):
        raise LayerError(f"{where} is a {type(value).__name__}, which has no plain form", mend="make it a dataclass")
    return {"class": type(value).__name__, "config": {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}}


def _made(value: Any, custom_objects: Mapping[str, Callable[..., Any]] | None) -> Any:
    if isinstance(value, list):
        return [_made(item, custom_objects) for item in value]
    if isinstance(value, Mapping):
        if "class" in value:
            return deserialize(value, custom_objects)
        if set(value) == {"function"}:
            name = value["function"]
            if name not in (custom_objects or {}):
                raise LayerError(f"no function {name!r}", mend="pass it by name in custom_objects")
            return (custom_objects or {})[name]
        return {key: _made(item, custom_objects) for key, item in value.items()}
    return value
