"""Machine code is safe: whatever arrays come in, whoever calls at once, however a call ends, and without llvmlite at all."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.compiler.native.ir import I64, PTR, VOID, Module
from chainrule.compiler.native.kernel import Call, Kernel
from chainrule.compiler.native.step import Block, write_steps
from chainrule.compiler.native.tasks import Again, Choice, Element
from chainrule.core.aval import Aval
from chainrule.core.errors import AxisError
from chainrule.core.variable import Variable

pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

HERE = Path(__file__).parent
RNG = np.random.default_rng(0)


def in_process(body: str, *, seconds: float = 120, **settings: str) -> str:
    """What a program prints, run with these settings in its environment."""
    path = os.pathsep.join([str(HERE), *(place for place in sys.path if place)])
    environment = {**os.environ, "PYTHONPATH": path, **settings}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(body)], env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def native(f: Callable[..., Any]) -> Any:
    return cr.compile(f, backend="native")


def same(got: Any, wanted: Any) -> None:
    for one, other in zip(cr.core.tree.leaves(got), cr.core.tree.leaves(wanted), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


# Arrays.


def several(x: Any, y: Any) -> Any:
    return cr.tanh(x) * y, cr.sum(x * y, axis=0), x[::-1], cr.concat([x, y]), x @ y.mT, cr.cumulative_sum(x, axis=-1)


FORMS: dict[str, Callable[[tuple[int, ...]], np.ndarray]] = {
    "plain": lambda shape: RNG.normal(size=shape),
    "Fortran order": lambda shape: np.asfortranarray(RNG.normal(size=shape)),
    "negative strides": lambda shape: RNG.normal(size=shape)[::-1, ::-1],
    "every other one": lambda shape: RNG.normal(size=(shape[0] * 2, shape[1] * 3))[::2, ::3],
    "broadcast": lambda shape: np.broadcast_to(RNG.normal(size=shape[1:]), shape),
    "unaligned": lambda shape: np.frombuffer(b"x" + RNG.normal(size=shape).tobytes(), np.float64, offset=1).reshape(shape),
    "other byte order": lambda shape: RNG.normal(size=shape).astype(">f8"),
}


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (5, 7), (17, 33)], ids=str)
def test_arrays_may_lie_in_memory_as_they_like_and_stay_as_they_are(shape: tuple[int, int]) -> None:
    step = native(several)
    for make in FORMS.values():
        x, y = make(shape), make(shape)
        for array in (x, y):
            array.flags.writeable = False
        before = x.tobytes(), y.tobytes()
        same(step(x, y), several(cr.asarray(x), cr.asarray(y)))
        assert (x.tobytes(), y.tobytes()) == before


def test_inputs_may_be_one_array_or_parts_of_one_another() -> None:
    step, memory = native(several), RNG.normal(size=(9, 6))
    for x, y in ((memory[:5], memory[:5]), (memory[:5], memory[4:]), (memory[:5], memory[4::-1]), (memory[::2], memory[4:])):
        same(step(x, y), several(cr.asarray(x), cr.asarray(y)))


def test_results_may_be_inputs_again() -> None:
    step = native(lambda x: (x * 0.5 + 1.0, cr.flip(x, axis=0)))
    x = other = RNG.normal(size=(64, 3))
    for _ in range(20):
        wanted = np.asarray(x) * 0.5 + 1.0, np.asarray(other)[::-1]
        x, other = step(x)[0], step(other)[1]
        same((x, other), wanted)


@pytest.mark.parametrize("value", [np.float32(3), np.array(3.0, np.float32), np.array([], np.float32), np.ones((1, 0, 2), np.float32)], ids=repr)
def test_values_without_axes_and_without_elements(value: Any) -> None:
    def f(x: Any) -> Any:
        return cr.sum(x), x * 2, cr.exp(x), cr.reshape(x, (-1,)), cr.mean(cr.ones((2,)) * cr.sum(x)), cr.grad(lambda x: cr.sum(x * x))(x)

    same(native(f)(value), f(cr.asarray(value)))


# Positions.

TABLE = RNG.normal(size=(7, 3)).astype(np.float32)
POSITIONS: dict[str, Callable[[Any, Any], Any]] = {
    "take": lambda x, i: cr.take(x, i, axis=0),
    "gather": lambda x, i: cr.gather(x, i, axes=0),
    "take_along_axis": lambda x, i: cr.take_along_axis(x, i[:, None], axis=0),
    "scatter_add": lambda x, i: cr.scatter_add(i, x[:2], shape=(7, 3), axes=0),
    "scatter_update": lambda x, i: cr.scatter_update(x, i, 1.0, axes=0),
    "index": lambda x, i: x[i],
    "one_hot": lambda x, i: cr.one_hot(i, 7),
    "cross-entropy": lambda x, i: nn.losses.softmax_cross_entropy(x.mT[:2], i),
    "cross-entropy's gradient": lambda x, i: cr.grad(lambda x: nn.losses.softmax_cross_entropy(x.mT[:2], i))(x),
    "gradient": lambda x, i: cr.grad(lambda x: cr.sum(cr.take(x, i, axis=0)))(x),
}


@pytest.mark.parametrize("name", POSITIONS)
@pytest.mark.parametrize("bad", [7, -8, 10**12, -(2**62)])
def test_positions_out_of_range_are_the_eager_error_and_nothing_changes(name: str, bad: int) -> None:
    f = POSITIONS[name]
    count = cr.tensor(0)

    def run(x: Any, i: Any) -> Any:
        count.assign(count + 1)
        return f(x, i)

    good, wrong = np.array([0, 6]), np.array([1, bad])
    step = native(run)
    same(step(TABLE, good), f(cr.asarray(TABLE), cr.asarray(good)))
    with pytest.raises((AxisError, IndexError, ValueError)) as eager:
        f(cr.asarray(TABLE), cr.asarray(wrong))
    for _ in range(3):
        with pytest.raises(type(eager.value)) as compiled:
            step(TABLE, wrong)
        assert str(compiled.value).splitlines()[0] == str(eager.value).splitlines()[0]
        assert count.item() == 1
    same(step(TABLE, good), f(cr.asarray(TABLE), cr.asarray(good)))


# Callers.


def network() -> tuple[Callable[..., Any], list[np.ndarray]]:
    cr.manual_seed(0)
    model = cr.models.lenet()
    x, labels = np.random.default_rng(0).normal(size=(4, 28, 28, 1)).astype(np.float32), np.array([3, 7, 0, 1])
    model(x)
    return lambda x, labels: nn.losses.softmax_cross_entropy(model(x), labels), [x, labels]


def test_two_threads_may_call_one_function_and_different_ones_at_once() -> None:
    steps = [native(several), native(lambda x, y: cr.softmax(x @ y.mT) @ y)]
    xs = [(RNG.normal(size=(130, 90)), RNG.normal(size=(130, 90))) for _ in range(4)]
    wanted = [[[np.array(out) for out in cr.core.tree.leaves(step(*x))] for x in xs] for step in steps]

    def caller(number: int) -> bool:
        right = True
        for i in range(40):
            k, x = (number + i // 8) % 2, i % 4
            got = cr.core.tree.leaves(steps[k](*xs[x]))
            right &= all(np.array_equal(np.asarray(one), other) for one, other in zip(got, wanted[k][x], strict=True))
        return right

    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(caller, range(8)))


@pytest.mark.parametrize("kind", ["choice", "loop"])
def test_the_memory_of_a_condition_is_written_again_when_all_threads_have_read_it(kind: str) -> None:
    """Whoever reads it later would go another way than the others, who would wait for ever."""
    condition, later, status = (Variable(Aval((), np.dtype(name)), name) for name in ("bool", "float64", "int64"))
    module = Module()
    call = Call(Kernel("write", 2), (later,), (later,))
    module.declare("write", VOID, [PTR, I64, I64])
    task = Choice(Element(condition, 0), [], []) if kind == "choice" else Again([], Element(condition, 0), [])
    # Both lie in the same place, one after the other.
    write_steps(module, [task, call], Block({}, {condition: 0, later: 0}, status), shared=True)
    text = module.text()
    asked, written = text.index("icmp ne i8"), text.index("call void @write")
    assert "call void @pool_barrier" in text[asked:written]


CHOICES = """
    import numpy as np, chainrule as cr
    from chainrule.compiler.native import emit
    emit.SMALL = -1
    def body(c, x):
        c = cr.cond(cr.sum(x) > 0.0, lambda c: c * 0.5 + x, lambda c: c, c)
        c, n = cr.while_loop(lambda s: cr.logical_and(s[1] < 3, cr.sum(x) < 1.0), lambda s: (s[0] + 0.1, s[1] + 1), (c, cr.asarray(0)))
        return c, cr.cond(cr.sum(c) > 1.0, lambda c: cr.sum(c), lambda c: cr.max(c), c)
    def f(x):
        return cr.scan(body, x[0], x)
    x = np.random.default_rng(0).normal(size=(40, 6))
    step = cr.compile(f, backend="native")
    wanted = [np.asarray(out) for out in f(cr.asarray(x))]
    for _ in range(1500):
        for one, other in zip(step(x), wanted, strict=True):
            np.testing.assert_allclose(np.asarray(one), other, rtol=1e-9)
    print("done")
"""


@pytest.mark.parametrize("threads", ["2", "3"])
def test_threads_do_not_overtake_each_other_at_choices_and_loops(threads: str) -> None:
    """Each reads the condition before another one writes it again; if not, they wait for each other for ever."""
    assert in_process(CHOICES, CHAINRULE_NUM_THREADS=threads) == "done"


@pytest.mark.skipif(sys.platform == "win32", reason="interrupts are sent as signals: run on Unix")
def test_an_interrupt_ends_a_long_run_and_breaks_nothing() -> None:
    body = """
        import os, signal, threading
        import numpy as np, chainrule as cr
        # A process in the background of a shell is started with interrupts ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        x = np.random.default_rng(0).normal(size=(300, 300))
        state = cr.tensor(np.zeros((300, 300)))
        def f(x):
            y = cr.scan(lambda c, _: (cr.tanh(c @ x), cr.sum(c)), x, length=20)[0]
            state.assign(y)
            return y
        step = cr.compile(f, backend="native")
        wanted = np.asarray(step(x))
        for i in range(4):
            try:
                threading.Timer(0.05 + 0.03 * i, os.kill, (os.getpid(), signal.SIGINT)).start()
                while True:
                    step(x)
            except KeyboardInterrupt:
                assert np.array_equal(np.asarray(step(x)), wanted) and np.array_equal(np.asarray(state), wanted)
                print("heard", end=" ")
    """
    assert in_process(body, CHAINRULE_NUM_THREADS="2") == "heard heard heard heard"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork: run on Unix")
def test_forked_processes_call_the_same_functions() -> None:
    body = """
        import multiprocessing, warnings
        import numpy as np, chainrule as cr
        warnings.simplefilter("ignore")
        x = np.random.default_rng(0).normal(size=(200, 300)).astype(np.float32)
        step = cr.compile(lambda x, c: (cr.softmax(x @ x.mT) @ x + c, cr.sum(x)), backend="native")
        wanted = [np.asarray(out) for out in step(x, 1.0)]
        def right(number):
            new = cr.compile(lambda x: cr.tanh(x) * 2.0, backend="native")
            exact = all(np.array_equal(np.asarray(a), b) for a, b in zip(step(x, 1.0), wanted))
            return exact and np.allclose(np.asarray(new(x)), np.tanh(x) * 2, atol=1e-5)
        with multiprocessing.get_context("fork").Pool(3) as pool:
            children = pool.map_async(right, range(9))
            mine = all(right(i) for i in range(5))
            print(mine, all(children.get(60)), right(0))
    """
    assert in_process(body, CHAINRULE_NUM_THREADS="2") == "True True True"


BITS = """
    import hashlib
    import numpy as np, chainrule as cr
    from chainrule import nn
    from test_native_safety import network, several
    def digest(outs):
        return hashlib.sha256(b"".join(np.asarray(out).tobytes() for out in cr.core.tree.leaves(outs))).hexdigest()[:16]
    rng = np.random.default_rng(0)
    f, args = network()
    found = [digest(cr.compile(cr.value_and_grad(f), backend="native")(args[0], args[1]))]
    cr.manual_seed(0)
    for model, shape in ((nn.Sequential([nn.Dense(50, activation="gelu"), nn.LayerNormalization(), nn.Dense(7)]), (64, 33)),
                         (nn.Sequential([nn.LSTM(20), nn.Dense(3)]), (8, 12, 9)),
                         (nn.Sequential([nn.Conv2D(8, 3), nn.BatchNormalization(), nn.MaxPooling2D(2), nn.Flatten(), nn.Dense(3)]), (6, 12, 12, 3))):
        x = rng.normal(size=shape).astype(np.float32)
        model(x)
        optimizer = cr.optim.Adam(model.parameters(), lr=0.01)
        def train(x):
            optimizer.zero_grad()
            loss = cr.mean(cr.square(model(x)))
            loss.backward()
            optimizer.step()
            return loss
        step = cr.compile(train, backend="native")
        found.append(digest([[step(x) for _ in range(5)], [p.detach() for p in model.parameters()]]))
    found.append(digest(cr.compile(several, backend="native")(rng.normal(size=(301, 203)), rng.normal(size=(301, 203)))))
    print(*found)
"""


def test_results_are_the_same_bits_with_any_number_of_threads() -> None:
    assert len({in_process(BITS, CHAINRULE_NUM_THREADS=threads) for threads in ("1", "2", "4")}) == 1


@pytest.mark.parametrize("width", ["256", "128"])
def test_narrower_vectors_give_the_same_results(width: str) -> None:
    body = """
        import numpy as np, chainrule as cr
        from chainrule.compiler.native.engine import host
        from fuzz_native import fuzz
        from test_native_safety import network, same, several
        f, args = network()
        same(cr.compile(cr.value_and_grad(f), backend="native")(*args), cr.value_and_grad(f)(*map(cr.asarray, args)))
        found = [str(one) for _, several in fuzz(2_000_000, 60, together=30, length=5) for one in several]
        print(host().bits, *found)
    """
    assert in_process(body, CHAINRULE_NATIVE_WIDTH=width, CHAINRULE_CACHE_DIR="0") == width


# Without llvmlite.

BLOCKED = """
    import sys, warnings
    sys.modules["llvmlite"] = None
"""


def test_without_llvmlite_numpy_code_runs_and_says_so_once() -> None:
    body = (
        BLOCKED
        + """
    import chainrule as cr
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        steps = [cr.compile(lambda x: x * 2.0), cr.compile(lambda x: x + 1.0)]
        print([step(cr.tensor(3.0)).item() for step in steps], steps[0].stats().compilations[0]["backend"])
    print(len(heard), heard[0].category.__name__, "chainrule[cpu]" in str(heard[0].message))
    """
    )
    assert in_process(body).splitlines() == ["[6.0, 4.0] numpy", "1 CompileWarning True"]


def test_without_llvmlite_machine_code_is_refused_with_the_mend() -> None:
    body = (
        BLOCKED
        + """
    import chainrule as cr
    step = cr.compile(lambda x: x * 2.0, backend="native")
    for _ in range(2):
        try:
            step(cr.tensor(3.0))
        except cr.errors.MissingExtraError as error:
            print("pip install 'chainrule[cpu]'" in str(error))
    """
    )
    assert in_process(body).splitlines() == ["True", "True"]


def test_llvmlite_is_loaded_when_it_is_needed() -> None:
    body = """
        import sys
        import chainrule as cr
        before = "llvmlite" in sys.modules
        step = cr.compile(lambda x: x * 2.0, backend="numpy")
        step(cr.tensor(3.0))
        between = "llvmlite" in sys.modules
        cr.compile(lambda x: x * 2.0)(cr.tensor(3.0))
        print(before, between, "llvmlite" in sys.modules)
    """
    assert in_process(body) == "False False True"
