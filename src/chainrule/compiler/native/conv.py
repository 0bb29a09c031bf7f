"""The convolution gates in machine code: which kernels compute each of them, in which order, on what.

Images have their channels last and weights their features, as the gates have them: nothing is laid out anew between layers. What the
gate that goes back to the images needs is the weights with channels and features exchanged, which one kernel writes to scratch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from chainrule.compiler.native.conv_depthwise import Depthwise, is_depthwise, write_depthwise_weights
from chainrule.compiler.native.conv_dots import Dots, is_narrow
from chainrule.compiler.native.conv_general import write_general
from chainrule.compiler.native.conv_halves import write_halves
from chainrule.compiler.native.conv_products import Products, Tiles, too_long, write_products, write_turn
from chainrule.compiler.native.conv_shape import Correlation, Target, classes, correlation
from chainrule.compiler.native.conv_weights import write_sum, write_weight_blocks
from chainrule.compiler.native.gemm import Epilogue, Product, Work, Written, write_product
from chainrule.compiler.native.ir import Module
from chainrule.core.aval import Aval

__all__ = ["write_conv"]

_PACKED = 1 << 17
"""Weights that are better packed."""

_LONG = 1024
"""Positions beyond which the sum over them is better cut."""

_PARTS = 36
"""Shares of a transposed convolution, each a kernel."""


def write_conv(
    module: Module,
    name: str,
    gate: str,
    inputs: Sequence[Aval],
    out: Aval,
    params: Mapping[str, Any],
    target: Target,
    epilogue: Epilogue | None = None,
    *,
    general: bool = False,
) -> Written:
    """Write the kernels of `conv`, `conv_transpose` or `conv_weight`.

    Parameters
    ----------
    module : Module
    name : str
        With which the names of all functions begin.
    gate : str
    inputs : sequence of Aval
        Without gaps in memory, as the result: float32 or float64.
    out : Aval
    params : Mapping
        The gate's.
    target : Target
    epilogue : Epilogue, optional
        What becomes of the results before they are stored: of a matrix with a row for each position (or each tap and channel of weights)
        and a column for each feature.
    general : bool
        Position by position, whatever the shapes (not of ``conv_weight``).

    Returns
    -------
    Written
        Kernels of the inputs ``"a"`` and ``"b"`` and the result ``"c"``, whose memory may not be shared.
    """
    first, second = inputs[0].shape, inputs[1].shape
    tiles = Tiles(module, name, target, target.vector(out.dtype), out.shape[-1], epilogue)
    extra = epilogue.parameters if epilogue else ()
    product = None if general else _product(gate, inputs, out, params)
    if product:
        return write_product(module, name, product, bits=8 * target.nbytes, registers=target.registers, epilogue=epilogue, halves=target.halves)
    if gate == "conv_weight":
        return _weights(tiles, correlation(first, out.shape, second, params), extra)
    if target.halves and not general and math.prod(params["stride"]) <= _PARTS:
        halves = write_halves(tiles, out.dtype, first, second, out.shape, params, back=gate == "conv_transpose")
        if halves:
            return halves
    if gate == "conv_transpose":
        return _transpose(tiles, correlation(out.shape, second, first, params), extra, general)
    bond = correlation(first, second, out.shape, params)
    if is_narrow(bond.channels, bond.features, bond, tiles.vector, target) and not general:
        return _dots(tiles, bond, extra)
    products = [Depthwise(tiles, bond) if is_depthwise(bond) else Products(tiles, bond)]
    general = general or too_long(products)
    kernel = write_general(module, name, tiles.vector, bond, epilogue) if general else write_products(tiles, products)
    return Written((Work(kernel, ("a", "b", "c", *extra)),), 0)


def _product(gate: str, inputs: Sequence[Aval], out: Aval, params: Mapping[str, Any]) -> Product | None:
    """The matrix product that large weights without neighbours are: it packs them."""
    first, second = inputs[0].shape, inputs[1].shape
    x, w, y = {"conv": (first, second, out.shape), "conv_transpose": (out.shape, second, first), "conv_weight": (first, out.shape, second)}[gate]
    channels, features, positions = x[-1], y[-1], math.prod(x[:-1])
    alone = math.prod(w[:-2]) == 1 == params["groups"] and set(params["stride"]) == {1} and not any(params["low"]) and x[:-1] == y[:-1]
    if not alone or channels * features < _PACKED or not positions or (gate == "conv_weight" and positions > _LONG):
        return None
    if gate == "conv":
        return Product(positions, channels, features, out.dtype, (channels, 1), (features, 1), features)
    if gate == "conv_transpose":
        return Product(positions, features, channels, out.dtype, (features, 1), (1, features), channels)
    return Product(channels, positions, features, out.dtype, (1, channels), (features, 1), features)


def _dots(tiles: Tiles, bond: Correlation, extra: tuple[str, ...]) -> Written:
    """To few features: the weights' channels have to be neighbours."""
    turn = write_turn(tiles.module, f"{tiles.name}_turn", tiles.vector, bond, range(bond.taps))
    works = Work(turn, ("b", "scratch")), Work(write_products(tiles, [Dots(tiles, bond)]), ("a", "scratch", "c", *extra))
    return Written(works, bond.weights * tiles.vector.wide(1).nbytes)


def _transpose(tiles: Tiles, bond: Correlation, extra: tuple[str, ...], general: bool) -> Written:
    """The weights are turned first; the parts of the result have nothing to do with each other."""
    vector = tiles.vector
    scratch = bond.weights * vector.wide(1).nbytes
    general = general or math.prod(min(axis.step, axis.inputs) for axis in bond.axes) > _PARTS
    narrow = is_narrow(bond.features, bond.channels, bond, vector, tiles.target)
    if (narrow or is_depthwise(bond)) and not general:
        products = [(Dots if narrow else Depthwise)(tiles, part.correlation) for part in classes(bond, turned=False)]
        if not too_long(products):
            return Written((Work(write_products(tiles, products), ("a", "b", "c", *extra)),), 0)
    parts = [] if general else classes(bond)
    products = [Products(tiles, part.correlation) for part in parts]
    if general or too_long(products):
        kernel = write_general(tiles.module, tiles.name, vector, bond, tiles.epilogue, back=True)
        picked = list(range(bond.taps))
    else:
        kernel = write_products(tiles, products)
        picked = [tap for part in parts for tap in part.taps]
    turn = write_turn(tiles.module, f"{tiles.name}_turn", vector, bond, picked)
    return Written((Work(turn, ("b", "scratch")), Work(kernel, ("a", "scratch", "c", *extra))), scratch)


def _weights(tiles: Tiles, bond: Correlation, extra: tuple[str, ...]) -> Written:
    """Where the result is put together from parts, or something becomes of it, it stands in scratch first."""
    name, vector, epilogue = tiles.name, tiles.vector, tiles.epilogue
    if is_narrow(bond.channels, bond.features, bond, vector, tiles.target) and not epilogue and all(axis.step == 1 for axis in bond.axes):
        return _exchanged(tiles, bond)
    write = write_depthwise_weights if is_depthwise(bond) else write_weight_blocks
    blocks, parts = write(tiles.module, name, bond, tiles.target, vector)
    if parts == 1 and not epilogue:
        return Written((Work(blocks, ("a", "b", "c")),), 0)
    rows, columns = bond.taps * bond.channels, bond.features * bond.groups
    kernel = write_sum(tiles.module, f"{name}_sum", vector, parts, (rows, columns), epilogue)
    works = Work(blocks, ("a", "b", "scratch")), Work(kernel, ("scratch", "c", *extra))
    return Written(works, parts * bond.weights * vector.wide(1).nbytes)


def _exchanged(tiles: Tiles, bond: Correlation) -> Written:
    """The gradient of weights to few features: that of a convolution from the outputs to the images, turned around."""
    name, vector, other = tiles.name, tiles.vector, bond.exchanged()
    blocks, parts = write_weight_blocks(tiles.module, name, other, tiles.target, vector)
    works = [Work(blocks, ("b", "a", "scratch"))]
    begin = parts * bond.weights if parts > 1 else 0
    if begin:
        kernel = write_sum(tiles.module, f"{name}_sum", vector, parts, (other.taps * other.channels, other.features), None, begin)
        works.append(Work(kernel, ("scratch", "scratch")))
    turn = write_turn(tiles.module, f"{name}_turn", vector, other, range(other.taps)[::-1], begin)
    return Written((*works, Work(turn, ("scratch", "c"))), (begin + bond.weights) * vector.wide(1).nbytes)
