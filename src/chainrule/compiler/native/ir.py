"""LLVM IR as text: modules, functions, values, loops. What is computed is the business of others.

A `Function` writes one instruction after the other and gives a `Value` for each. Whole numbers of Python are i64 values that
are known now: arithmetic on indices folds them, so that constant shapes leave no code behind. Vectors are kinds of more
than one lane; all lanes of a vector are computed by the same instructions as one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from chainrule.core.aval import Dtype


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of LLVM: an element such as ``float``, ``i64`` or ``ptr``, in so many lanes."""

    element: str
    lanes: int = 1

    def __str__(self) -> str:
        return self.element if self.lanes == 1 else f"<{self.lanes} x {self.element}>"

    @property
    def floating(self) -> bool:
        return self.element in ("half", "bfloat", "float", "double")

    @property
    def bits(self) -> int:
        """Of one element."""
        sizes = {"half": 16, "bfloat": 16, "float": 32, "double": 64, "ptr": 64}
        return sizes[self.element] if self.element in sizes else int(self.element[1:])

    @property
    def nbytes(self) -> int:
        """In memory, of all lanes."""
        return max(self.bits // 8, 1) * self.lanes

    @property
    def suffix(self) -> str:
        """As names of intrinsics end."""
        short = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64", "ptr": "p0"}.get(self.element, self.element)
        return short if self.lanes == 1 else f"v{self.lanes}{short}"

    def of(self, element: str) -> Kind:
        """Another element in as many lanes."""
        return Kind(element, self.lanes)

    def wide(self, lanes: int) -> Kind:
        """The same element in so many lanes."""
        return Kind(self.element, lanes)


I1, I8, I16, I32, I64 = (Kind(f"i{bits}") for bits in (1, 8, 16, 32, 64))
F32, F64, PTR, VOID = Kind("float"), Kind("double"), Kind("ptr"), Kind("void")

_ELEMENTS = {"f4": "float", "f8": "double", "f2": "half", "b1": "i8"}


def kind_of(dtype: Dtype) -> Kind:
    """How an element of a dtype lies in memory; booleans are bytes."""
    return Kind(_ELEMENTS.get(f"{dtype.kind}{dtype.itemsize}", f"i{8 * dtype.itemsize}"))


@dataclass(frozen=True, slots=True)
class Value:
    """A register or a literal, with its kind."""

    text: str
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"


Index = Value | int
"""An i64: one that is known now, or a register."""


def index(x: Index) -> Value:
    """An index as a value."""
    return Value(str(x), I64) if isinstance(x, int) else x


def literal(number: float, kind: Kind) -> Value:
    """A number in every lane; floating-point ones are rounded to the kind."""
    if not kind.floating:
        whole = int(number)
        text = ("true" if whole else "false") if kind.element == "i1" else str(whole)
    elif kind.element in ("half", "bfloat"):
        bits = int(np.float16(number).view(np.uint16)) if kind.element == "half" else _bfloat(number)
        text = f"0x{'H' if kind.element == 'half' else 'R'}{bits:04X}"
    else:
        exact = float(np.float32(number)) if kind.element == "float" else float(number)
        text = f"0x{struct.unpack('<Q', struct.pack('<d', exact))[0]:016X}"
    return Value(text if kind.lanes == 1 else f"splat ({kind.element} {text})", kind)


def _bfloat(number: float) -> int:
    bits = int(np.float32(number).view(np.uint32))
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 if np.isfinite(number) else bits >> 16 | (number != number)


_NAME = re.compile(r"@([\w.]+)")


@dataclass(eq=False)
class Module:
    """One piece of IR.

    Attributes
    ----------
    functions : dict of str to list of str
        Their lines.
    declarations : dict of str to str
        Of what is defined elsewhere.
    data : dict of str to str
        What is fixed.
    same : dict of str to str
        Further names of functions.
    """

    functions: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    declarations: dict[str, str] = field(default_factory=dict[str, str])
    data: dict[str, str] = field(default_factory=dict[str, str])
    same: dict[str, str] = field(default_factory=dict[str, str])
    _unrolled: int = 0

    def declare(self, name: str, result: Kind, arguments: Iterable[Kind | str]) -> None:
        """A function that is defined elsewhere."""
        self.declarations[name] = f"declare {result} @{name}({', '.join(map(str, arguments))})"

    def unrolled(self) -> str:
        """What marks the last branch of one more loop that shall be unrolled."""
        self.data["unroll"] = '!0 = !{!"llvm.loop.unroll.full"}'
        self._unrolled += 1
        self.data[f"unroll{self._unrolled}"] = f"!{self._unrolled} = distinct !{{!{self._unrolled}, !0}}"
        return f", !llvm.loop !{self._unrolled}"

    def text(self, *outside: str) -> str:
        """As LLVM reads it; functions are internal if they are not among those that are called from outside, where any are named."""
        if outside:
            for name, lines in self.functions.items():
                if name not in outside and not lines[0].startswith("define internal "):
                    lines[0] = lines[0].replace("define ", "define internal ", 1)
        functions = self._merged()
        parts = [*self.data.values(), *(line for name, line in self.declarations.items() if name not in self.functions)]
        return "\n".join([*parts, *(line for lines in functions.values() for line in lines)]) + "\n"

    def _merged(self) -> dict[str, list[str]]:
        """The functions; of internal ones that are alike but for their names only the first, which is called in place of the others."""
        first: dict[str, str] = {}
        instead: dict[str, str] = {}
        kept: dict[str, list[str]] = {}

        def called(found: re.Match[str]) -> str:
            name = self.same.get(found[1], found[1])
            return f"@{instead.get(name, name)}"

        for name, lines in self.functions.items():
            found = [_NAME.sub(called, line) if "@" in line else line for line in lines]
            if lines[0].startswith("define internal "):
                own = "\n".join([found[0].replace(f"@{name}(", "@(", 1), *found[1:]])
                instead[name] = first.setdefault(own, name)
            if instead.get(name, name) == name:
                kept[name] = found
        return kept


class Loop:
    """A loop while it is written: its index, what it carries from one round to the next, and after it the results.

    Attributes
    ----------
    index : Value
    carried : list of Value
        In this round.
    results : list of Value
        What is carried out of the loop; there after its end.
    """

    def __init__(self, index: Value, carried: list[Value]) -> None:
        self.index = index
        self.carried = carried
        self.results: list[Value] = list(carried)
        self.following: list[Value] = list(carried)

    def next(self, *values: Value) -> None:
        """What the next round gets in the place of `carried`."""
        self.following = list(values)


class Function:
    """Writes one function.

    Parameters
    ----------
    module : Module
        That it becomes part of when it is finished (`close`).
    name : str
    parameters : sequence of (str, Kind)
        Pointers never overlap where ``noalias`` is true.
    result : Kind
    linkage : str
        ``"internal"`` unless it is called from outside.
    hasty : bool
        Whether compiling it shall be quick rather than its code good: it only calls what does the work.
    """

    def __init__(
        self,
        module: Module,
        name: str,
        parameters: Sequence[tuple[str, Kind]],
        result: Kind = VOID,
        *,
        linkage: str = "",
        noalias: bool = False,
        hasty: bool = False,
    ) -> None:
        self.module = module
        self.name = name
        self.result = result
        self.parameters = [Value(f"%{word}", kind) for word, kind in parameters]
        self.lines = ["", "entry:"]
        self.block = "entry"
        self._linkage, self._noalias, self._hasty = linkage, noalias, hasty
        self._allocated: list[str] = []
        self._count = self._loops = 0

    def close(self, value: Value | None = None) -> None:
        """Return, and enter the module."""
        self.write(f"ret {'void' if value is None else value}")
        self.lines.append("}")
        marks = {PTR: " noalias"} if self._noalias else {}
        words = ", ".join(f"{x.kind}{marks.get(x.kind, '')} {x.text}" for x in self.parameters)
        attributes = "nounwind optnone noinline" if self._hasty else "nounwind"
        self.lines[0] = f"define {self._linkage}{' ' if self._linkage else ''}{self.result} @{self.name}({words}) {attributes} {{"
        self.lines[2:2] = self._allocated
        self.module.functions[self.name] = self.lines

    def allocate(self, kind: Kind, count: int = 1) -> Value:
        """Memory for one value, or for so many in a row, as long as the function runs."""
        made = Value(f"%{self.fresh('m')}", PTR)
        self._allocated.append(f"  {made.text} = alloca {kind}{f', i64 {count}' if count != 1 else ''}")
        return made

    # Instructions.

    def fresh(self, stem: str = "v") -> str:
        """A name that nothing else has."""
        self._count += 1
        return f"{stem}{self._count}"

    def write(self, line: str) -> None:
        """An instruction without a value."""
        self.lines.append(f"  {line}")

    def value(self, kind: Kind, text: str) -> Value:
        """An instruction with a value of this kind."""
        made = Value(f"%{self.fresh()}", kind)
        self.lines.append(f"  {made.text} = {text}")
        return made

    def binary(self, operation: str, a: Value, b: Value) -> Value:
        """``operation`` may carry flags: ``"fadd contract"``, ``"add nsw"``."""
        return self.value(a.kind, f"{operation} {a}, {b.text}")

    def compare(self, predicate: str, a: Value, b: Value) -> Value:
        """A condition: ``"olt"`` and its like of floating-point numbers, ``"slt"``, ``"eq"`` and their like of integers."""
        return self.value(a.kind.of("i1"), f"{'fcmp' if a.kind.floating else 'icmp'} {predicate} {a}, {b.text}")

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        return self.value(a.kind, f"select {condition}, {a}, {b}")

    def cast(self, operation: str, x: Value, kind: Kind) -> Value:
        """``bitcast``, ``sitofp``, ``fptrunc`` and their like."""
        return self.value(kind, f"{operation} {x} to {kind}")

    def call(self, name: str, result: Kind, *arguments: Value, flags: str = "") -> Value:
        """Of a function that is in the module, or declared."""
        text = f"call {flags}{' ' if flags else ''}{result} @{name}({', '.join(map(str, arguments))})"
        if result == VOID:
            self.write(text)
            return Value("", VOID)
        return self.value(result, text)

    def intrinsic(self, stem: str, *arguments: Value, result: Kind | None = None, overload: Kind | None = None, flags: str = "") -> Value:
        """``llvm.<stem>`` of what kind the first argument, or ``overload``, is; declared by the way."""
        made = result or arguments[0].kind
        name = f"llvm.{stem}.{(overload or arguments[0].kind).suffix}"
        self.module.declare(name, made, [x.kind for x in arguments])
        return self.call(name, made, *arguments, flags=flags)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """``a * b + c``, rounded once."""
        return self.intrinsic("fma", a, b, c)

    # Memory.

    def at(self, pointer: Value, offset: Index, kind: Kind) -> Value:
        """The place ``offset`` elements of this kind (of one lane) further."""
        return pointer if offset == 0 else self.value(PTR, f"getelementptr {kind.element}, {pointer}, {index(offset)}")

    def load(self, kind: Kind, pointer: Value, *, align: int | None = None) -> Value:
        """Aligned like one element, unless said otherwise."""
        return self.value(kind, f"load {kind}, {pointer}, align {align or kind.wide(1).nbytes}")

    def store(self, x: Value, pointer: Value, *, align: int | None = None) -> None:
        self.write(f"store {x}, {pointer}, align {align or x.kind.wide(1).nbytes}")

    def load_some(self, kind: Kind, pointer: Value, mask: Value, rest: Value | None = None) -> Value:
        """The lanes that the mask names; the others are ``rest`` or 0, and are not touched in memory."""
        passed = rest or Value("zeroinitializer", kind)
        name = f"llvm.masked.load.{kind.suffix}.p0"
        self.module.declare(name, kind, [PTR, I32, mask.kind, kind])
        return self.call(name, kind, pointer, literal(kind.wide(1).nbytes, I32), mask, passed)

    def store_some(self, x: Value, pointer: Value, mask: Value) -> None:
        """The lanes that the mask names."""
        name = f"llvm.masked.store.{x.kind.suffix}.p0"
        self.module.declare(name, VOID, [x.kind, PTR, I32, mask.kind])
        self.call(name, VOID, x, pointer, literal(x.kind.wide(1).nbytes, I32), mask)

    def splat(self, x: Value, lanes: int) -> Value:
        """One value in every lane."""
        if lanes == 1 or x.kind.lanes == lanes:
            return x
        kind = x.kind.wide(lanes)
        if not x.text.startswith("%"):
            return Value(f"splat ({x})", kind)
        first = self.value(kind, f"insertelement {kind} poison, {x}, i64 0")
        return self.value(kind, f"shufflevector {first}, {kind} poison, {Kind('i32', lanes)} zeroinitializer")

    # Indices: what is known now is folded.

    def add(self, a: Index, b: Index) -> Index:
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        return b if a == 0 else a if b == 0 else self.binary("add nsw", index(a), index(b))

    def sub(self, a: Index, b: Index) -> Index:
        if isinstance(a, int) and isinstance(b, int):
            return a - b
        return a if b == 0 else self.binary("sub nsw", index(a), index(b))

    def mul(self, a: Index, b: Index) -> Index:
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        if a == 0 or b == 0:
            return 0
        return b if a == 1 else a if b == 1 else self.binary("mul nsw", index(a), index(b))

    def div(self, a: Index, b: Index) -> Index:
        """Of numbers that are not negative."""
        if isinstance(a, int) and isinstance(b, int):
            return a // b
        return a if b == 1 else self.binary("udiv", index(a), index(b))

    def rem(self, a: Index, b: Index) -> Index:
        """Of numbers that are not negative."""
        if isinstance(a, int) and isinstance(b, int):
            return a % b
        return 0 if b == 1 else self.binary("urem", index(a), index(b))

    def least(self, a: Index, b: Index) -> Index:
        if isinstance(a, int) and isinstance(b, int):
            return min(a, b)
        return self.intrinsic("smin", index(a), index(b))

    def most(self, a: Index, b: Index) -> Index:
        if isinstance(a, int) and isinstance(b, int):
            return max(a, b)
        return self.intrinsic("smax", index(a), index(b))

    # Flow.

    def label(self, name: str) -> None:
        """A new block begins."""
        self.lines.append(f"{name}:")
        self.block = name

    def jump(self, name: str) -> None:
        self.write(f"br label %{name}")

    def branch(self, condition: Value, yes: str, no: str) -> None:
        self.write(f"br {condition}, label %{yes}, label %{no}")

    @contextmanager
    def loop(self, start: Index, stop: Index, step: Index = 1, carry: Sequence[Value] = (), *, unroll: bool = False) -> Generator[Loop]:
        """``for index in range(start, stop, step)``, which may be empty; of rounds known to be none or one no loop is written.

        ``unroll``: if there is no other loop inside, LLVM's passes shall write its rounds one after the other.
        """
        known = len(range(start, stop, step)) if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int) else None
        if known == 1:
            loop = Loop(index(start), list(carry))
            yield loop
            loop.results = loop.following
            return
        head, body, latch, done = (self.fresh(stem) for stem in ("head", "body", "latch", "done"))
        before = self.block
        self.jump(head)
        self.label(head)
        at = Value(f"%{self.fresh('i')}", I64)
        carried = [Value(f"%{self.fresh('c')}", x.kind) for x in carry]
        place = len(self.lines)
        loop = Loop(at, carried)
        self._loops += 1
        inside = self._loops
        self.branch(self.compare("slt", at, index(stop)), body, done)
        self.label(body)
        yield loop
        self.jump(latch)
        self.label(latch)
        further = self.binary("add nsw", at, index(step))
        self.write(f"br label %{head}{self.module.unrolled() if unroll and self._loops == inside else ''}")
        firsts, nexts = [index(start), *carry], [further, *loop.following]
        self.lines[place:place] = [
            f"  {x.text} = phi {x.kind} [ {a.text}, %{before} ], [ {b.text}, %{latch} ]"
            for x, a, b in zip([at, *carried], firsts, nexts, strict=True)
        ]
        self.label(done)
        loop.results = carried

    @contextmanager
    def when(self, condition: Value) -> Generator[None]:
        """What is written inside runs only if the condition holds."""
        then, done = self.fresh("then"), self.fresh("done")
        self.branch(condition, then, done)
        self.label(then)
        yield
        self.jump(done)
        self.label(done)


def first_lanes(count: int, lanes: int) -> Value:
    """The mask of the first lanes."""
    return Value(f"<{', '.join('i1 true' if i < count else 'i1 false' for i in range(lanes))}>", Kind("i1", lanes))
