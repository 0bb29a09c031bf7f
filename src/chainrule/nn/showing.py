"""A layer as text: its class, the arguments that are not the usual ones, and the layers inside it."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core import tree
from chainrule.nn.initializers import Initializer, name_of

if TYPE_CHECKING:
    from chainrule.nn.layer import Layer


def show(layer: Layer) -> str:
    """What ``repr`` of a layer gives."""
    usual = {name: parameter.default for name, parameter in signature(type(layer)).parameters.items()}
    inside = [(name, member) for name, member in layer._members() if hasattr(member, "layers_inside")]
    given = [f"{name}={_brief(value)}" for name, value in layer.get_config().items() if not _same(value, usual[name]) and not _holds_layers(value)]
    lines = [f"  {name}: {member!r}".replace("\n", "\n  ") for name, member in inside]
    body = "\n" + "\n".join(lines) + "\n" if lines else ""
    return f"{type(layer).__name__}({', '.join(given)}{body})"


def _same(value: Any, default: Any) -> bool:
    return value is default or _brief(value) == _brief(default) or (default is None and _brief(value) == "'linear'")


def _holds_layers(value: Any) -> bool:
    return any(hasattr(leaf, "layers_inside") for leaf in tree.leaves(value))


def _brief(value: Any) -> str:
    if isinstance(value, Initializer):
        return repr(name_of(value) or value)
    if isinstance(value, np.dtype):
        return repr(value.name)
    return repr(value.__name__) if callable(value) and hasattr(value, "__name__") else repr(value)
