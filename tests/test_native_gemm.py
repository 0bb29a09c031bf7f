"""Matrix products in machine code, against NumPy in float64: any sizes, strides, batches, widths of vectors, epilogues."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chainrule.compiler.native import blocks, engine, gemm
from chainrule.compiler.native.gemm import Epilogue, Place, Product, Written, folded, write_product
from chainrule.compiler.native.ir import F32, I64, PTR, Function, Module, Value, literal
from chainrule.compiler.native.microkernel import Block, Part, Parts, Rounds, Sums, Taps, load_lanes, store_lanes, transposed, write_microkernel

llvmlite = pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

MACHINES = {"AVX-512": (512, 32), "AVX2": (256, 16), "NEON": (128, 32)}
CANARY = 77
EDGE = 40


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example is compiled once: nothing is to be kept."""
    monkeypatch.setenv("CHAINRULE_CACHE_DIR", "0")


@dataclass(frozen=True)
class Case:
    """A product, with how A and B lie: as they are, transposed, every second and third element, or backwards."""

    m: int
    k: int
    n: int
    dtype: str = "float32"
    a: str = "plain"
    b: str = "plain"
    machine: str = "AVX-512"
    batch: tuple[int, ...] = ()
    same_a: bool = False
    same_b: bool = False
    gap: int = 0
    pieces: int = 1
    seed: int = 0


LAYOUTS = ["plain", "transposed", "spread", "backwards"]
sizes = st.one_of(st.integers(0, 70), st.sampled_from([1, 2, 8, 16, 32, 48, 64]))
cases = st.builds(
    Case,
    m=sizes,
    k=sizes,
    n=sizes,
    dtype=st.sampled_from(["float32", "float64"]),
    a=st.sampled_from(LAYOUTS),
    b=st.sampled_from(LAYOUTS),
    machine=st.sampled_from(list(MACHINES)),
    gap=st.sampled_from([0, 0, 3]),
    pieces=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
batches = st.builds(
    lambda case, batch, same_a, same_b: replace(case, m=case.m % 9, k=case.k % 20, n=case.n % 20, batch=batch, same_a=same_a, same_b=same_b),
    cases,
    st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple),
    st.booleans(),
    st.booleans(),
)


def laid_out(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, layout: str) -> np.ndarray:
    *batch, rows, columns = shape
    if layout == "transposed":
        return rng.standard_normal((*batch, columns, rows)).astype(dtype).swapaxes(-1, -2)
    if layout == "spread":
        return rng.standard_normal((*batch, 2 * rows + 1, 3 * columns + 1)).astype(dtype)[..., 1::2, 1::3]
    whole = rng.standard_normal(shape).astype(dtype)
    return whole[..., ::-1, ::-1] if layout == "backwards" else whole


def operands(case: Case) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(case.seed)
    alone = (1,) * len(case.batch)
    a = laid_out(rng, ((alone if case.same_a else case.batch) + (case.m, case.k)), case.dtype, case.a)
    b = laid_out(rng, ((alone if case.same_b else case.batch) + (case.k, case.n)), case.dtype, case.b)
    return np.broadcast_to(a, (*case.batch, case.m, case.k)), np.broadcast_to(b, (*case.batch, case.k, case.n))


def product_of(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> Product:
    size = a.itemsize
    (*a_batch, a_row, a_column), (*b_batch, b_row, b_column), (*c_batch, c_row, _) = ([s // size for s in x.strides] for x in (a, b, c))
    batch = c.shape[:-2]
    return Product(
        *(a.shape[-2], a.shape[-1], b.shape[-1], a.dtype),
        *((a_row, a_column), (b_row, b_column), c_row),
        *(batch, tuple(a_batch), tuple(b_batch), tuple(c_batch)),
    )


def run(written: Written, module: Module, arrays: Mapping[str, np.ndarray], pieces: int = 1) -> None:
    """Call the kernels, their units in so many pieces, the last ones first."""
    code = engine.load(module.text())
    size = next(iter(arrays.values())).itemsize
    scratch = np.full(written.scratch // size + 2 * EDGE, CANARY, np.dtype(f"f{size}"))
    scratch[EDGE : len(scratch) - EDGE] = np.nan
    given = {**arrays, "scratch": scratch[EDGE:]}
    for kernel, roles in written.works:
        call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(roles), ctypes.c_int64, ctypes.c_int64)(code.address(kernel.name))
        bounds = [kernel.units * piece // pieces for piece in range(pieces + 1)]
        for first, last in reversed(list(pairwise(bounds))):
            call(*(given[role].ctypes.data for role in roles), first, last)
    assert (scratch[:EDGE] == CANARY).all()
    assert (scratch[len(scratch) - EDGE :] == CANARY).all()


def with_edges(shape: tuple[int, ...], dtype: Any, gap: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An array for results with canaries around it and in the gaps between its rows, and all of its memory."""
    *lead, columns = shape
    whole = np.full(int(np.prod(lead)) * (columns + gap) + 2 * EDGE, CANARY, dtype)
    return whole[EDGE : len(whole) - EDGE].reshape(*lead, columns + gap)[..., :columns], whole


def multiply(case: Case, epilogue: Epilogue | None = None, **further: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The product in machine code, and in float64."""
    a, b = operands(case)
    c, whole = with_edges((*case.batch, case.m, case.n), case.dtype, case.gap)
    before = a.copy(), b.copy()
    bits, registers = MACHINES[case.machine]
    module = Module()
    written = write_product(module, "product", product_of(a, b, c), bits=bits, registers=registers, epilogue=epilogue)
    run(written, module, {"a": a, "b": b, "c": c, **further}, case.pieces)
    made = c.copy()
    c[...] = CANARY
    assert (whole == CANARY).all()
    assert np.array_equal(a, before[0])
    assert np.array_equal(b, before[1])
    return made, a.astype("float64") @ b.astype("float64")


def agree(made: np.ndarray, expected: np.ndarray, k: int) -> None:
    rounding = np.finfo(made.dtype).eps
    np.testing.assert_allclose(made, expected, rtol=0, atol=4 * rounding * max(k, 1) ** 0.5 * max(abs(expected).max(initial=1), 4))


@settings(max_examples=150)
@given(cases)
def test_products_of_any_size_and_strides_agree_with_numpy(case: Case) -> None:
    made, expected = multiply(case)
    agree(made, expected, case.k)


@settings(max_examples=80)
@given(st.one_of(cases, batches), st.integers(60, 200), st.sampled_from([64, 4096]), st.sampled_from([1, 3000]), st.booleans())
def test_large_products_are_packed_and_cut_along_k(case: Case, k: int, conflict: int, least: int, kept_whole: bool) -> None:
    """The same at sizes that are quick to test: the bounds are lowered instead."""
    lowered: dict[str, Any] = {"_CONFLICT": conflict, "_PACK": least, "_OFTEN": 1} | ({} if kept_whole else {"_DEPTH": 1000})
    with mock.patch.multiple(gemm, **lowered):
        made, expected = multiply(replace(case, k=case.k + k))
    agree(made, expected, case.k + k)


FAR: dict[str, Any] = {"_PIECE": 3, "_PACK": 1, "_FAR": 1, "_TALL": 12}
"""Bounds with which small products are cut as large ones are whose operands come from memory."""


@example(Case(70, 90, 70, a="transposed"), 3000, False)
@example(Case(70, 90, 70, machine="AVX2"), 3000, True)
@settings(max_examples=80)
@given(st.one_of(cases, batches), st.sampled_from([1, 3000, 10000]), st.booleans())
def test_products_of_what_comes_from_memory_agree_with_numpy(case: Case, kept: int, clipped: bool) -> None:
    """Few sums or many are kept while pieces of k pass; rows are called ahead."""
    case = replace(case, k=case.k + 50)
    bias = np.random.default_rng(1).standard_normal(case.n).astype(case.dtype)
    with mock.patch.multiple(gemm, **FAR), mock.patch.object(blocks, "_KEPT", kept):
        made, expected = multiply(case, Epilogue(("bias",), bias_and_relu), bias=bias) if clipped else multiply(case)
    agree(made, np.maximum(expected + bias, 0) if clipped else expected, case.k)


@pytest.mark.parametrize("b", LAYOUTS)
@pytest.mark.parametrize("a", LAYOUTS)
@pytest.mark.parametrize("m", [5, 70])
def test_each_layout_is_packed_and_cut_along_k(m: int, a: str, b: str) -> None:
    with mock.patch.multiple(gemm, _CONFLICT=64, _PACK=1, _OFTEN=1, _DEPTH=1000):
        for machine in MACHINES:
            made, expected = multiply(Case(m, 90, 50, a=a, b=b, machine=machine, pieces=2))
            agree(made, expected, 90)


@settings(max_examples=60)
@given(batches)
def test_batches_agree_with_numpy_also_where_one_side_is_the_same_throughout(case: Case) -> None:
    made, expected = multiply(case)
    agree(made, expected, case.k)


WAYS = {"_cost_of_rows": "spread", "_cost_of_columns": "transposed", "_cost_of_dots": "plain"}
"""Ways to compute a product with few columns, and how A lies for each."""


@example(Case(43, 30, 0, machine="NEON"), "_cost_of_columns", 5, False, False)
@example(Case(403, 30, 0, machine="AVX2"), "_cost_of_columns", 13, True, False)
@settings(max_examples=100)
@given(st.one_of(cases, batches), st.sampled_from(list(WAYS)), st.integers(1, 20), st.booleans(), st.booleans())
def test_products_with_few_columns_agree_with_numpy_each_way(case: Case, way: str, n: int, clipped: bool, far: bool) -> None:
    """Whichever is cheapest; with an epilogue, and with an A that is read as from afar."""
    case = replace(case, n=n, a=WAYS[way], k=case.k + 20)
    bias = np.random.default_rng(1).standard_normal(n).astype(case.dtype)
    forced: dict[str, Any] = {way: lambda *_: -1.0} | ({"_PACK": 1, "_FAR": 1, "_CONFLICT": 8} if far else {})
    with mock.patch.multiple(gemm, **forced):
        made, expected = multiply(case, Epilogue(("bias",), bias_and_relu), bias=bias) if clipped else multiply(case)
    agree(made, np.maximum(expected + bias, 0) if clipped else expected, case.k)


def test_few_columns_are_computed_the_way_that_fills_vectors() -> None:
    """Lanes along k where rows of A lie along memory, down the columns of C where those of A do, and along rows where these are full."""

    def kernels(m: int, k: int, n: int, a: tuple[int, int]) -> list[tuple[str, ...]]:
        product = Product(m, k, n, np.dtype("f"), a, (n, 1), n)
        return [work.roles for work in write_product(Module(), "product", product, bits=512, registers=32).works]

    assert kernels(256, 3072, 10, (3072, 1)) == [("b", "scratch"), ("a", "scratch", "c")]
    assert kernels(3072, 256, 10, (1, 3072)) == [("b", "a", "c")]
    assert kernels(32, 4096, 16, (4096, 1)) == [("a", "b", "c")]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("b", ["plain", "transposed"])
@pytest.mark.parametrize("a", ["plain", "transposed"])
@pytest.mark.parametrize("size", [(64, 784, 256), (1, 300, 100), (200, 90, 1), (1, 500, 1), (3, 400, 50), (130, 1, 70), (150, 4000, 150)])
def test_products_of_the_usual_kinds_agree_with_numpy(size: tuple[int, int, int], a: str, b: str, machine: str) -> None:
    made, expected = multiply(Case(*size, a=a, b=b, machine=machine, pieces=3))
    agree(made, expected, size[1])


@pytest.mark.parametrize("b", ["plain", "transposed"])
@pytest.mark.parametrize("a", ["plain", "transposed"])
def test_bits_do_not_depend_on_how_the_work_is_shared(a: str, b: str) -> None:
    for size in [(70, 100, 130), (1, 300, 100), (200, 90, 1), (3, 400, 50), (130, 4000, 64), (150, 1024, 10)]:
        alone, shared = (multiply(Case(*size, a=a, b=b, pieces=pieces))[0] for pieces in (1, 7))
        assert np.array_equal(alone, shared)
        with mock.patch.multiple(gemm, **FAR), mock.patch.object(blocks, "_KEPT", 10000):
            alone, shared = (multiply(Case(*size, a=a, b=b, pieces=pieces))[0] for pieces in (1, 7))
        assert np.array_equal(alone, shared)


def test_infinities_and_nans_go_where_numpy_takes_them() -> None:
    case = Case(20, 30, 40)
    a, b = (x.copy() for x in operands(case))
    a[3, 4], a[5, 6], b[7, 8] = np.inf, np.nan, -np.inf
    c = np.zeros((20, 40), "float32")
    module = Module()
    run(write_product(module, "product", product_of(a, b, c), bits=512, registers=32), module, {"a": a, "b": b, "c": c})
    with np.errstate(invalid="ignore"):
        expected = a @ b
    assert np.array_equal(np.isnan(c), np.isnan(expected))
    assert np.array_equal(np.isinf(c), np.isinf(expected))


def bias_and_relu(f: Function, x: Value, place: Place, pointers: Mapping[str, Value]) -> Value:
    bias = load_lanes(f, x.kind, f.at(pointers["bias"], place.column, x.kind), place.width)
    total = f.binary("fadd", x, bias)
    zero = literal(0, x.kind)
    return f.select(f.compare("olt", total, zero), zero, total)


@settings(max_examples=40)
@given(st.one_of(cases, batches))
def test_an_epilogue_adds_a_bias_and_clips_before_anything_is_stored(case: Case) -> None:
    bias = np.random.default_rng(1).standard_normal(case.n).astype(case.dtype)
    made, expected = multiply(case, Epilogue(("bias",), bias_and_relu), bias=bias)
    agree(made, np.maximum(expected + bias, 0), case.k)


@settings(max_examples=40)
@given(st.one_of(cases, batches))
def test_an_epilogue_knows_its_place_and_may_store_elsewhere(case: Case) -> None:
    """``w -= 0.5 * gradient``, and the gradient itself is never in memory."""
    count = int(np.prod(case.batch)) * case.m * case.n
    rng = np.random.default_rng(2)
    whole = np.full(count + 2 * EDGE, CANARY, case.dtype)
    w = whole[EDGE : EDGE + count].reshape(*case.batch, case.m, case.n)
    w[...] = rng.standard_normal(w.shape)
    before = w.astype("float64")

    def update(f: Function, x: Value, place: Place, pointers: Mapping[str, Value]) -> None:
        at = place.row
        for axis, extent in enumerate(case.batch):
            inner = int(np.prod(case.batch[axis + 1 :])) * case.m
            at = f.add(at, f.mul(place.batch[axis], inner))
            assert extent
        pointer = f.at(pointers["w"], f.add(f.mul(at, case.n), place.column), x.kind)
        old = load_lanes(f, x.kind, pointer, place.width)
        store_lanes(f, f.fma(x, literal(-0.5, x.kind), old), pointer, place.width)

    made, expected = multiply(case, Epilogue(("w",), update), w=w)
    assert (made == CANARY).all()
    agree(w, before - 0.5 * expected, case.k)
    assert (whole[:EDGE] == CANARY).all()
    assert (whole[EDGE + count :] == CANARY).all()


def test_a_batch_with_one_weight_matrix_becomes_rows() -> None:
    a, b, c = np.zeros((8, 5, 3, 4), "f"), np.broadcast_to(np.zeros((4, 7), "f"), (8, 5, 4, 7)), np.zeros((8, 5, 3, 7), "f")
    assert folded(product_of(a, b, c)) == Product(120, 4, 7, a.dtype, (4, 1), (7, 1), 7)
    rows = np.zeros((8, 1, 4), "f"), np.broadcast_to(np.zeros((4, 7), "f"), (8, 4, 7)), np.zeros((8, 1, 7), "f")
    assert folded(product_of(*rows)) == Product(8, 4, 7, a.dtype, (4, 1), (7, 1), 7)
    apart = np.zeros((8, 5, 3, 4), "f"), np.zeros((8, 5, 4, 7), "f"), np.zeros((8, 5, 3, 7), "f")
    assert folded(product_of(*apart)).batch == (40,)


GUARDED = """
import ctypes, mmap, sys
from unittest import mock
import numpy as np
sys.path.insert(0, {tests!r})
from test_native_gemm import FAR, MACHINES, WAYS, Module, engine, gemm, product_of, write_product

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
kept = []

def against_the_edge(rows, columns, turned):
    memory = mmap.mmap(-1, 16 * mmap.PAGESIZE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (0, 15):
        assert libc.mprotect(base + page * mmap.PAGESIZE, mmap.PAGESIZE, 0) == 0
    kept.append(memory)
    begin = 15 * mmap.PAGESIZE - 4 * rows * columns
    shape = (columns, rows) if turned else (rows, columns)
    x = np.frombuffer(memory, "float32", rows * columns, begin).reshape(shape)
    x[...] = 1
    return x.T if turned else x

def check(m, k, n, a_turned, b_turned):
    a, b, c = against_the_edge(m, k, a_turned), against_the_edge(k, n, b_turned), against_the_edge(m, n, False)
    module = Module()
    written = write_product(module, "product", product_of(a, b, c), bits=bits, registers=registers)
    scratch = np.zeros(written.scratch // 4 + 1, "float32")
    code = engine.load(module.text())
    for kernel, roles in written.works:
        pointers = [{{"a": a, "b": b, "c": c, "scratch": scratch}}[role].ctypes.data for role in roles]
        call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(roles), ctypes.c_int64, ctypes.c_int64)
        call(code.address(kernel.name))(*pointers, 0, kernel.units)
    assert (c == k).all(), (m, k, n)

for bits, registers in MACHINES.values():
    for a_turned in (False, True):
        for b_turned in (False, True):
            for m, k, n in [(5, 7, 3), (1, 33, 17), (17, 33, 1), (19, 3, 50), (2, 50, 21), (1, 19, 1)]:
                check(m, k, n, a_turned, b_turned)
            with mock.patch.multiple(gemm, **FAR):
                for m, k, n in [(19, 50, 50), (3, 50, 21)]:
                    check(m, k, n, a_turned, b_turned)
            for way in WAYS:
                with mock.patch.object(gemm, way, lambda *_: -1.0):
                    for m, k, n in [(37, 19, 10), (21, 100, 3)]:
                        check(m, k, n, a_turned, b_turned)
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are closed as Linux does it")
def test_nothing_is_touched_behind_the_last_element() -> None:
    """In a process of its own, with pages that must not be touched right behind the arrays."""
    text = dedent(GUARDED).format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "done", done.stderr[-2000:]


# The micro-kernel by itself.


@pytest.mark.parametrize("ways", [1, 3])
@pytest.mark.parametrize("lanes", [16, 8, 4])
def test_a_microkernel_counts_rounds_that_are_known_when_it_runs(lanes: int, ways: int) -> None:
    kind, k, widths = F32.wide(lanes), 36, (lanes, lanes - 1)
    n = sum(widths)

    def finish(f: Function, sums: Sums) -> None:
        for (i, v), x in sums.items():
            store_lanes(f, x, f.at(f.parameters[2], i * n + v * lanes, kind), widths[v])

    def begin(f: Function) -> dict[tuple[int, int], Value]:
        return {(0, 0): literal(2, kind)}

    module = Module()
    nest = Rounds("rounds", ways, ways * n, Taps(tuple((way, way * n) for way in range(ways))))
    block = Block(kind, tuple(i * k for i in range(5)), widths)
    write_microkernel(module, "inner", block, nest, finish, parameters=[("c", PTR), ("rounds", I64)], ways=ways, start=begin)
    f = Function(module, "outer", [("a", PTR), ("b", PTR), ("c", PTR), ("rounds", I64)])
    f.call("inner", f.result, *f.parameters)
    f.close()
    code = engine.load(module.text())
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64)(code.address("outer"))
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((5, k)).astype("f"), rng.standard_normal((k, n)).astype("f"), np.zeros((5, n), "f")
    for rounds in (0, 1, 36 // ways):
        call(a.ctypes.data, b.ctypes.data, c.ctypes.data, rounds)
        expected = a[:, : rounds * ways] @ b[: rounds * ways]
        expected[0, :lanes] += 2
        np.testing.assert_allclose(c, expected, atol=1e-4)


def test_parts_of_a_nest_add_to_their_rows_only() -> None:
    kind = F32.wide(8)
    nest = Parts((Part(0, 0, Rounds(3, 1, 8)), Part(3, 24, Rounds(2, 1, 8), frozenset({1}))))
    module = Module()

    def finish(f: Function, sums: Sums) -> None:
        for (i, _), x in sums.items():
            f.store(x, f.at(f.parameters[2], 8 * i, kind))

    write_microkernel(module, "inner", Block(kind, (0, 5), (8,)), nest, finish, parameters=[("c", PTR)])
    f = Function(module, "outer", [("a", PTR), ("b", PTR), ("c", PTR)])
    f.call("inner", f.result, *f.parameters)
    f.close()
    code = engine.load(module.text())
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((2, 5)).astype("f"), rng.standard_normal((5, 8)).astype("f"), np.zeros((2, 8), "f")
    ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(code.address("outer"))(a.ctypes.data, b.ctypes.data, c.ctypes.data)
    np.testing.assert_allclose(c, np.stack([a[0, :3] @ b[:3], a[1] @ b]), atol=1e-5)


@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
def test_squares_are_transposed_in_registers(lanes: int) -> None:
    kind = F32.wide(lanes)
    module = Module()
    f = Function(module, "turn", [("x", PTR), ("y", PTR)])
    for i, x in enumerate(transposed(f, [f.load(kind, f.at(f.parameters[0], lanes * i, kind)) for i in range(lanes)])):
        f.store(x, f.at(f.parameters[1], lanes * i, kind))
    f.close()
    x, y = np.arange(lanes * lanes, dtype="f").reshape(lanes, lanes), np.zeros((lanes, lanes), "f")
    code = engine.load(module.text())
    ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2)(code.address("turn"))(x.ctypes.data, y.ctypes.data)
    assert np.array_equal(y, x.T)
