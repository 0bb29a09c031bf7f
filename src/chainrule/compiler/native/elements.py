"""Elements between memory and registers: vectors of neighbours, of one element, of elements at even distances."""

from __future__ import annotations

from chainrule.compiler.native.ir import I1, I8, I32, PTR, VOID, Function, Index, Kind, Value, kind_of, literal
from chainrule.core.aval import Dtype

__all__ = ["load", "register", "store"]


def register(dtype: Dtype, lanes: int) -> Kind:
    """Of a value of this dtype: booleans are bytes in memory, and bits here."""
    return (I1 if dtype.kind == "b" else kind_of(dtype)).wide(lanes)


def load(f: Function, dtype: Dtype, pointer: Value, place: Index, step: int, lanes: int, mask: Value | None = None) -> Value:
    """So many elements from a place on, ``step`` elements apart (0: one for all lanes); only those that the mask names are touched."""
    kind = kind_of(dtype)
    start = f.at(pointer, place, kind)
    if lanes == 1 or step == 0:
        loaded = f.load(kind, start)
    elif step == 1:
        loaded = f.load(kind.wide(lanes), start) if mask is None else f.load_some(kind.wide(lanes), start, mask)
    else:
        loaded = _gathered(f, kind.wide(lanes), start, step, mask)
    if dtype.kind == "b":
        loaded = f.compare("ne", loaded, literal(0, loaded.kind))
    return f.splat(loaded, lanes)


def store(f: Function, dtype: Dtype, pointer: Value, place: Index, value: Value, mask: Value | None = None, step: int = 1) -> None:
    """So many elements as the value has lanes and the mask names, from a place on, ``step`` elements apart."""
    start = f.at(pointer, place, kind_of(dtype))
    if dtype.kind == "b":
        value = f.cast("zext", value, value.kind.of(I8.element))
    if step != 1 and value.kind.lanes > 1:
        _scattered(f, value, start, step, mask)
    elif mask is None:
        f.store(value, start)
    else:
        f.store_some(value, start, mask)


def _places(f: Function, kind: Kind, start: Value, step: int) -> Value:
    """Pointers to elements at even distances."""
    places = ", ".join(f"i64 {lane * step}" for lane in range(kind.lanes))
    return f.value(PTR.wide(kind.lanes), f"getelementptr {kind.element}, {start}, <{kind.lanes} x i64> <{places}>")


def _gathered(f: Function, kind: Kind, start: Value, step: int, mask: Value | None) -> Value:
    pointers = _places(f, kind, start, step)
    chosen = mask or literal(1, I1.wide(kind.lanes))
    name = f"llvm.masked.gather.{kind.suffix}.{pointers.kind.suffix}"
    f.module.declare(name, kind, [pointers.kind, I32, chosen.kind, kind])
    return f.call(name, kind, pointers, literal(kind.wide(1).nbytes, I32), chosen, Value("zeroinitializer", kind))


def _scattered(f: Function, value: Value, start: Value, step: int, mask: Value | None) -> None:
    kind = value.kind
    pointers = _places(f, kind, start, step)
    chosen = mask or literal(1, I1.wide(kind.lanes))
    name = f"llvm.masked.scatter.{kind.suffix}.{pointers.kind.suffix}"
    f.module.declare(name, VOID, [kind, pointers.kind, I32, chosen.kind])
    f.call(name, VOID, value, pointers, literal(kind.wide(1).nbytes, I32), chosen)
