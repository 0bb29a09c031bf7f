"""A layer's state: its parameters for an optimizer, values taken from elsewhere, another dtype. Which tensors belong to it, `Layer` says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chainrule.core.aval import Dtype
from chainrule.core.errors import DtypeError, LayerError, TraceError
from chainrule.core.interp import current, no_grad
from chainrule.ops.creation import asarray
from chainrule.ops.gate import as_dtype
from chainrule.tensor import Tensor, new

if TYPE_CHECKING:
    from chainrule.nn.layer import Layer


class Differences(NamedTuple):
    """Names that a loaded state lacked, and names in it that the layer does not have."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


class Parameters(Iterable[Tensor]):
    """The parameters of a layer, looked up anew whenever they are asked for."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    def __iter__(self) -> Iterator[Tensor]:
        return (parameter for _, parameter in self._layer.named_parameters())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def available(self) -> tuple[list[Tensor], bool]:
        """Those that exist now, and whether they are all."""
        complete = next(self._layer._waiting(), None) is None
        return [parameter for _, parameter in self._layer._named_tensors("_parameters")], complete

    def __repr__(self) -> str:
        return f"<parameters of {self._layer.label}>"


def floating(dtype: Any, label: str) -> Dtype:
    """The dtype of parameters that is meant."""
    found = as_dtype(dtype, label)
    if found.kind != "f":
        raise DtypeError(f"{label}: parameters of dtype {found}", mend='choose a floating-point one: "float32" or "float64"')
    return found


def load(layer: Layer, state: Any, strict: bool) -> Differences:
    """What `Layer.load_state_dict` does."""
    if not isinstance(state, Mapping):
        raise LayerError(f"a {type(state).__name__} is no state of {layer.label}", mend="pass a mapping of names to arrays, as state_dict() returns")
    own = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    missing = tuple(name for name in own if name not in state)
    unexpected = tuple(name for name in state if name not in own)
    given: dict[str, Tensor] = {}
    lines = [f"missing: {name} {own[name].shape}" for name in missing if strict]
    lines += [f"unexpected: {name} {_told(state[name])}" for name in unexpected if strict]
    for name, tensor in own.items():
        if name in missing:
            continue
        try:
            # Without its own dtype, nothing but numbers would become one: None is NaN, and a word may be a number.
            asarray(state[name])
            given[name] = asarray(state[name], dtype=tensor.dtype)
        except DtypeError as error:
            lines.append(f"no values: {name}: {error.args[0].splitlines()[0]}")
            continue
        if given[name].shape != tensor.shape:
            lines.append(f"other shape: {name} is {tensor.shape} here, {given[name].shape} in the state")
    if lines:
        raise LayerError(
            f"the state does not fit {layer.label}:" + "".join(f"\n    {line}" for line in lines),
            mend="load it into a layer made with the same configuration"
            + (", or pass strict=False to take what fits" if missing or unexpected else ""),
        )
    with no_grad():
        for name, value in given.items():
            own[name].assign(value)
    return Differences(missing, unexpected)


def _told(value: Any) -> str:
    """The shape of what may be anything."""
    shape = getattr(value, "shape", None)
    return str(tuple(shape)) if isinstance(shape, tuple) else f"a {type(value).__name__}"


def cast(layer: Layer, dtype: Any) -> None:
    """What `Layer.astype` does."""
    target = floating(dtype, layer.label)
    if current().tracer is not None:
        raise TraceError(f"{layer.label}.astype inside a function that is traced or compiled", mend="call it before, outside of the function")
    for inner in layer.layers_inside():
        inner.dtype = target
        for _, tensor in inner._own_tensors():
            if tensor.dtype.kind == "f" and tensor.dtype != target:
                # The tensor itself, which an optimizer may know, gets another value and, of another dtype, no gradient yet.
                cast = new(np.asarray(tensor._value, target)).requires_grad_(tensor.requires_grad)
                tensor._value, tensor._node = cast._value, cast._node
