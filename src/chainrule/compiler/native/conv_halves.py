"""Convolutions of float32 whose operands are rounded to bfloat16: pairs of neighbours among what is summed are elements, half as many.

So `conv` and `conv_transpose` are written; both operands are copied first. The sums of `conv_weight` run over positions, which no one copy
pairs for all taps: it is not written here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chainrule.compiler.native.conv_products import Products, Tiles, too_long, write_products
from chainrule.compiler.native.conv_shape import classes, correlation
from chainrule.compiler.native.halves import copies_pay, multiply_pairs, pairs_of_a, pairs_of_b
from chainrule.compiler.native.product import Product, Work, Written
from chainrule.core.aval import Dtype, Shape

__all__ = ["write_halves"]

_LEAST = 1 << 20
"""Products for which it pays that threads wait for the copies."""


def write_halves(tiles: Tiles, dtype: Dtype, first: Shape, w: Shape, out: Shape, params: Mapping[str, Any], *, back: bool) -> Written | None:
    """Write the kernels of ``conv`` of images ``first``, or where ``back``, of ``conv_transpose`` of outputs ``first``.

    None if there are groups, neighbours are not even in number, vectors would be mostly empty, or the copies do not pay.
    """
    lanes, taps = tiles.vector.lanes, math.prod(w[:-2])
    summed, made = w[-2:][::-1] if back else w[-2:]
    products = math.prod((first if back else out)[:-1]) * math.prod(w)
    if (
        params["groups"] > 1
        or 4 * made <= lanes
        or products < _LEAST
        or not copies_pay(tiles.vector, summed, products, math.prod(first) + math.prod(w))
    ):
        return None
    module, name, positions = tiles.module, tiles.name, math.prod(first[:-1])
    image = Product(positions, summed, made, dtype, (summed, 1), (made, 1), made)
    weights = image._replace(k=taps * summed)
    if back:
        weights = image._replace(b=(1, summed), batch=(taps,), b_batch=(summed * made,))
    across = -(-made // lanes)
    to_w, panels = pairs_of_b(module, f"{name}_b", weights, tiles.vector, across)
    begin = -(-panels.nbytes // 64) * 64 // dtype.itemsize
    to_x, lines, line, _ = pairs_of_a(module, f"{name}_a", image, tiles.vector, begin)
    given, matrix = (*first[:-1], line), (summed // 2, across * lanes)
    if back:
        parts = [part.correlation for part in classes(correlation(out, (*w[:-2], *matrix[::-1]), given, params), turned=False)]
    else:
        parts = [correlation(given, (*w[:-2], *matrix), out, params)]
    tiles = replace(tiles, multiply=multiply_pairs)
    written = [Products(tiles, replace(part, features=made, x=begin)) for part in parts]
    if too_long(written):
        return None
    kernel = write_products(tiles, written)
    further = tiles.epilogue.parameters if tiles.epilogue else ()
    works = Work(to_w, ("b", "scratch")), Work(to_x, ("a", "scratch")), Work(kernel, ("scratch", "scratch", "c", *further))
    return Written(works, begin * dtype.itemsize + lines.nbytes)
