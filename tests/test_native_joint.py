"""Machine code goes through rows and matrices one by one where it can: attention is one kernel, and nothing is read before it is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.compiler.native import joint
from listings import close
from test_native_engine import in_process
from test_native_places import kernels, random, same, softmax

llvmlite = pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")


@pytest.fixture
def eager_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls take turns however little they hand on, and however few places there are."""
    monkeypatch.setattr(joint, "FAR", 1)
    monkeypatch.setattr(joint, "FEW", 1)
    # No code that was written otherwise.
    monkeypatch.setenv("CHAINRULE_CACHE_DIR", "0")


def attention(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    scores = q @ cr.permute_dims(k, (0, 1, 3, 2))
    return softmax(scores * 0.3 if mask is None else scores * 0.3 + np.where(mask, 0.0, -1e9).astype(np.float32)) @ v


def heads(x: Any, count: int) -> Any:
    """Of (batch, steps, features) as they lie in the results of a layer."""
    return cr.permute_dims(cr.reshape(x, (*x.shape[:2], count, -1)), (0, 2, 1, 3))


def loss(q: Any, k: Any, v: Any, count: int, causal: bool) -> Any:
    mask = np.tri(q.shape[1], k.shape[1], dtype=bool) if causal else None
    mixed = attention(heads(q, count), heads(k, count), heads(v, count), mask)
    return cr.sum(cr.reshape(cr.permute_dims(mixed, (0, 2, 1, 3)), q.shape) ** 2)


@pytest.mark.usefixtures("eager_to_join")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("batch", "count", "queries", "keys", "width"), [(2, 4, 16, 16, 8), (3, 2, 5, 9, 7), (1, 5, 33, 20, 3), (2, 1, 17, 17, 40)])
def test_attention_and_its_gradient_are_one_kernel_each(batch: int, count: int, queries: int, keys: int, width: int, causal: bool) -> None:
    args = random(batch, queries, count * width), random(batch, keys, count * width), random(batch + 1, keys, count * width)[1:]
    f = cr.value_and_grad(lambda q, k, v: loss(q, k, v, count, causal), argnums=(0, 1, 2))
    expected = f(*map(cr.tensor, args))
    got = cr.compile(f, backend="native")(*map(cr.tensor, args))
    close([np.asarray(x) for x in (got[0], *got[1])], [np.asarray(x) for x in (expected[0], *expected[1])])
    products = [found for found in kernels(f, *args) if "matmul" in found or "einsum" in found]
    assert len(products) <= 2, products


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0, 0)])
def test_rows_of_nothing_take_turns_too(shape: tuple[int, ...]) -> None:
    same(lambda x: (cr.sum(x, axis=-1), cr.prod(x, axis=-1)), random(*shape))


def test_small_attention_stays_in_parts() -> None:
    args = [random(2, 2, 16, 8)] * 3
    assert sum("matmul" in found for found in kernels(attention, *args)) > 1
    # As does one whose matrices are larger than the caches.
    assert sum("matmul" in found for found in kernels(attention, *[random(2, 4, 1100, 8)] * 3)) > 1


@pytest.mark.usefixtures("eager_to_join")
@pytest.mark.parametrize("of", ["something else", "the scores", "the sums", "what is written next"])
def test_what_stands_between_runs_before_if_it_has_nothing_to_do_with_the_rest(of: str) -> None:
    def f(x: Any, w: Any) -> Any:
        scores = x @ cr.permute_dims(x, (0, 1, 3, 2))
        e = cr.exp(scores - cr.max(scores, axis=-1, keepdims=True))
        total = cr.sum(e, axis=-1, keepdims=True)
        # A gate with loops of its own.
        between = cr.cumulative_sum({"something else": w, "the scores": scores, "the sums": total, "what is written next": w}[of], axis=-1)
        if of == "what is written next":
            return cr.concat([(e / total) @ x, between[..., : x.shape[-1]]]) * 2.0
        return (e / total * between) @ x

    same(f, random(2, 3, 12, 9), random(2, 3, 12, 12))
    assert (sum("matmul" in found for found in kernels(f, random(2, 3, 12, 9), random(2, 3, 12, 12))) == 1) == (
        of in ("something else", "what is written next")
    )


MOVES: dict[str, Any] = {
    "softmax": softmax,
    "softmax down": lambda x: cr.permute_dims(softmax(cr.permute_dims(x, (0, 1, 3, 2))), (0, 1, 3, 2)),
    "softmax of heads": lambda x: (
        cr.exp(x - cr.max(x, axis=1, keepdims=True)) / cr.sum(cr.exp(x - cr.max(x, axis=1, keepdims=True)), axis=1, keepdims=True)
    ),
    "centred": lambda x: x - cr.sum(x, axis=-1, keepdims=True) / x.shape[-1],
    "masked": lambda x: cr.where(np.tri(*x.shape[-2:], dtype=bool), x, -3.0),
    "turned": lambda x: cr.permute_dims(x, (0, 1, 3, 2)),
    "batch and heads": lambda x: cr.permute_dims(x, (1, 0, 2, 3)),
    "batch backwards": lambda x: x[::-1],
    "heads backwards": lambda x: cr.tanh(x)[:, ::-1],
    "rows backwards": lambda x: x[:, :, ::-1],
    "next head": lambda x: cr.concat([x[:, 1:], x[:, :1]], axis=1),
    "first head": lambda x: x + softmax(x[:, :1]),
    "first matrix": lambda x: x * softmax(x[:1, :1] * 2.0),
    "scaled": lambda x: cr.tanh(x * np.linspace(0.5, 1.5, x.shape[0], dtype=np.float32)[:, None, None, None]),
    "squared": lambda x: x @ cr.permute_dims(x, (0, 1, 3, 2)) * 0.2,
    "with the first": lambda x: x @ cr.permute_dims(x[:1], (0, 1, 3, 2)) * 0.2,
    "with another batch": lambda x: x @ cr.permute_dims(x[::-1], (0, 1, 3, 2)) * 0.2,
    "with one matrix": lambda x: x @ random(x.shape[3], 6),
    "with one for each head": lambda x: x @ random(x.shape[1], x.shape[3], 5),
    "with one for each batch": lambda x: x @ cr.permute_dims(random(x.shape[0], 1, 5, x.shape[3]), (0, 1, 3, 2)),
}


@pytest.mark.usefixtures("eager_to_join")
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.sampled_from([2, 3]), st.sampled_from([1, 2, 3]), st.integers(1, 20), st.integers(1, 20)),
    moves=st.lists(st.sampled_from(sorted(MOVES)), min_size=2, max_size=6),
    graded=st.booleans(),
)
def test_whatever_follows_reads_what_was_made_before(shape: tuple[int, ...], moves: list[str], graded: bool) -> None:
    def f(x: Any) -> Any:
        for move in moves:
            x = MOVES[move](x)
        return x

    same(cr.grad(lambda x: cr.sum(cr.sin(f(x)))) if graded else f, random(*shape))


@pytest.mark.usefixtures("eager_to_join")
@pytest.mark.parametrize("move", MOVES)
def test_a_place_reads_its_own_elements_alone(move: str) -> None:
    def f(x: Any) -> Any:
        scores = x @ cr.permute_dims(x, (0, 1, 3, 2)) * 0.1
        return cr.permute_dims(MOVES[move](scores), (0, 1, 3, 2)) @ scores, MOVES[move](softmax(scores))

    same(f, random(3, 3, 12, 12))


@pytest.mark.usefixtures("eager_to_join")
@pytest.mark.parametrize("start", [0, 1, 2])
def test_a_part_of_what_is_put_together_is_read_when_all_of_it_is_there(start: int) -> None:
    def f(x: Any) -> Any:
        second = x @ cr.exp(x * 0.1)
        both = cr.concat([x @ cr.cos(x), second])
        return softmax(both[start : start + 4]) @ x, cr.sum(both)

    same(f, random(4, 12, 12))


BITS = """
    import hashlib, numpy as np, chainrule as cr
    from chainrule.compiler.native import joint
    joint.FAR = joint.FEW = 1

    def f(q, k, v):
        e = cr.exp(q @ cr.permute_dims(k, (0, 1, 3, 2)))
        return cr.sum((e / cr.sum(e, axis=-1, keepdims=True)) @ v * q)

    xs = [cr.tensor(np.random.default_rng(i).normal(size=(5, 3, 40, 32)).astype("float32")) for i in range(3)]
    value, grads = cr.compile(cr.value_and_grad(f, argnums=(0, 1, 2)), backend="native")(*xs)
    print(hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in (value, *grads))).hexdigest())
"""


def test_bits_do_not_depend_on_who_takes_which_place() -> None:
    assert len({in_process(BITS, CHAINRULE_NUM_THREADS=threads, CHAINRULE_CACHE_DIR="0") for threads in ("1", "2", "3")}) == 1


@pytest.mark.usefixtures("eager_to_join")
def test_what_lies_on_the_stack_may_lie_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """In debug mode nothing else is written either."""
    monkeypatch.setenv("CHAINRULE_NATIVE_DEBUG", "1")
    for room in (0, 1 << 10, joint.STACK):
        monkeypatch.setattr(joint, "STACK", room)
        same(attention, random(3, 4, 20, 8), random(3, 4, 30, 8), random(3, 4, 30, 5))
