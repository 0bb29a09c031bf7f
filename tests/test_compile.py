"""cr.compile: the same numbers as without, one step per signature, and every recompilation says why."""

import gc
import threading
import weakref

import numpy as np
import pytest

import chainrule as cr
from chainrule.compiler import pipeline
from chainrule.core.errors import ArgumentError, ChainruleError, LinAlgError, TraceError


@pytest.fixture(autouse=True, params=["numpy", "native"])
def backend(request, monkeypatch):
    """Every test runs with both backends, unless it names one."""
    if request.param == "native":
        pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")
    monkeypatch.setattr(pipeline, "prefers_native", lambda: request.param == "native")


def compilations(compiled):
    return [one["why"] for one in compiled.stats().compilations]


def test_a_compiled_function_gives_what_the_function_gives():
    def f(x, y):
        return {"sum": x + y, "parts": [x * y, (cr.sin(x), None)]}, 3

    x, y = cr.tensor([1.0, 2.0]), cr.tensor([3.0, 4.0])
    wanted, found = f(x, y), cr.compile(f)(x, y)
    assert found[1] == 3
    assert found[0]["parts"][1][1] is None
    np.testing.assert_array_equal(found[0]["sum"], wanted[0]["sum"])
    np.testing.assert_allclose(found[0]["parts"][1][0], wanted[0]["parts"][1][0], rtol=1e-6)


def test_it_is_a_decorator_with_and_without_arguments_and_for_methods():
    @cr.compile(backend="numpy")
    def double(x):
        """Twice x."""
        return 2 * x

    class Scaler:
        factor = 3.0

        @cr.compile
        def scale(self, x):
            return x * self.factor

    assert double(cr.tensor(2.0)).item() == 4
    assert double.__doc__ == "Twice x."
    assert Scaler().scale(cr.tensor(2.0)).item() == 6


def test_one_compilation_serves_all_calls_of_a_signature():
    calls = []

    @cr.compile
    def f(x):
        calls.append(1)
        return x * x

    for value in range(5):
        assert f(cr.tensor(float(value))).item() == value**2
    assert len(calls) == 1


def test_arrays_and_keywords_are_arguments_like_others():
    @cr.compile
    def f(x, *, scale):
        return x * scale

    np.testing.assert_array_equal(f(np.ones(3, np.float32), scale=cr.tensor(2.0)), np.full(3, 2.0))
    np.testing.assert_array_equal(f(np.ones(3, np.float32), scale=cr.tensor(4.0)), np.full(3, 4.0))
    assert len(compilations(f)) == 1


@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray, lambda x: x[::-1, ::2], lambda x: np.broadcast_to(x[:1], x.shape)])
def test_arrays_go_the_short_way_and_nothing_keeps_their_memory(layout, monkeypatch):
    compiled = cr.compile(lambda x, y: {"sum": x + y, "same": x, "turned": x.T})
    x, y = layout(np.arange(12.0).reshape(3, 4)), np.float64(1.0)
    compiled(x, y)
    monkeypatch.setattr(type(compiled), "_call", None)
    found = compiled(x, y)
    wanted = x.copy()
    if x.flags.writeable:
        x[...] = -1.0
    np.testing.assert_array_equal(found["sum"], wanted + 1)
    np.testing.assert_array_equal(found["same"], wanted)
    np.testing.assert_array_equal(found["turned"], wanted.T)


def test_other_kinds_of_arrays_are_told_apart():
    compiled = cr.compile(lambda x: x * 2)
    x = np.arange(4, dtype="float32")
    compiled(x)
    for other in (x.astype(">f4"), x.view(np.ma.MaskedArray)):
        np.testing.assert_array_equal(compiled(other), [0, 2, 4, 6])
    assert compiled(x.astype("float64")).dtype == np.float64
    assert compiled(x[:2]).shape == (2,)


def test_arrays_stand_for_no_arguments_that_require_a_gradient():
    compiled = cr.compile(lambda *, x: x * 2 if x.requires_grad else x * 3)
    leaf = cr.tensor(np.ones(2), requires_grad=True)
    for x, wanted in ((leaf, 2), (np.ones(2), 3), (leaf, 2), (cr.tensor(np.ones(2)), 3), (np.ones(5), 3), (np.ones(2), 3)):
        np.testing.assert_array_equal(compiled(x=x).detach(), np.full(x.shape, wanted))
    assert len(compilations(compiled)) == 3


def test_results_do_not_share_memory_that_anyone_can_write_to():
    array = np.ones(3)
    out = cr.compile(lambda x: x.reshape(1, 3))(array)
    array[0] = 7
    np.testing.assert_array_equal(out, np.ones((1, 3)))


def test_a_compiled_function_inside_a_traced_one_is_part_of_it():
    inner = cr.compile(lambda x: x * x)
    outer = cr.compile(lambda x: inner(x) + inner(2 * x))
    assert outer(cr.tensor(3.0)).item() == 45
    assert [node.primitive.name for node in cr.trace(lambda x: inner(x) + 1.0, 2.0).nodes] == ["multiply", "add"]


def test_an_exception_leaves_everything_as_it_was():
    count = cr.tensor(0)

    @cr.compile
    def solve(a, b):
        count.assign(count + 1)
        return cr.linalg.solve(a, b)

    identity = cr.tensor(np.eye(2))
    solve(identity, cr.ones(2, dtype="float64"))
    with pytest.raises(LinAlgError, match="solve"):
        solve(cr.zeros((2, 2), dtype="float64"), cr.ones(2, dtype="float64"))
    assert count.item() == 1
    solve(identity, cr.ones(2, dtype="float64"))
    assert count.item() == 2


def test_an_exception_while_tracing_leaves_everything_as_it_was():
    w = cr.tensor(1.0, requires_grad=True)

    @cr.compile
    def f(x):
        (w * x).backward()
        with cr.no_grad():
            w.assign(w - 1.0)
        raise KeyError("mine")

    with pytest.raises(KeyError):
        f(cr.tensor(2.0))
    assert w.item() == 1
    assert w.grad is None


def test_a_branch_on_a_value_is_an_error_with_the_line_and_the_mend():
    @cr.compile
    def f(x):
        if x > 0:
            return x
        return -x

    with pytest.raises(TraceError, match=r"if x > 0:(.|\n)*cr\.where"):
        f(cr.tensor(1.0))


def test_two_threads_compile_at_once():
    w = cr.tensor(np.arange(5.0))
    errors = []

    def body(scale):
        return lambda x: cr.sum(w * x * scale)

    shared = cr.compile(lambda x: cr.sum(w * x))

    def work(number):
        try:
            own = cr.compile(body(float(number)))
            for size in range(20):
                x = cr.ones(5, dtype="float64") * size
                assert own(x).item() == 10 * size * number
                assert shared(x).item() == 10 * size
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_source_and_stats_tell_what_runs():
    @cr.compile(backend="numpy")
    def f(x):
        y = cr.exp(x)
        return y * y

    with pytest.raises(ArgumentError, match="not compiled yet"):
        f.source()
    f(cr.tensor(1.0))
    assert "y = exp(x)" in f.source()
    text = str(f.stats())
    assert "first call" in text
    assert "x: float32()" in text


def test_an_argument_that_cannot_be_compared_is_named():
    with pytest.raises(ArgumentError, match="the argument s, a set"):
        cr.compile(lambda s: cr.tensor(1.0))({1, 2})


def test_a_compiled_function_does_not_keep_results_alive():
    f = cr.compile(lambda x: x * 2.0)
    out = f(cr.ones(1000))
    alive = weakref.ref(out)
    del out
    gc.collect()
    assert alive() is None


def test_a_compiled_function_that_is_gone_keeps_nothing_alive():
    w = cr.tensor([1.0], requires_grad=True)
    gc.disable()
    try:
        held = weakref.ref(w)
        cr.compile(lambda x, w=w: cr.sum(w * x["a"][0]))({"a": [cr.ones(1)]})
        del w
        assert held() is None
    finally:
        gc.enable()


def test_errors_of_gates_are_the_clear_ones():
    f = cr.compile(lambda x, y: x + y)
    with pytest.raises(ChainruleError, match="do not broadcast"):
        f(cr.ones(2), cr.ones(3))
