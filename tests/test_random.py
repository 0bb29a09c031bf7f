"""Random numbers: the published vectors, reproducibility, independence, distributions."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.core.errors import ArgumentError, DtypeError, ShapeError
from chainrule.ops import philox

KNOWN = [  # counter, key, result: Random123's kat_vectors, philox4x32 with 10 rounds
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def numpy(x: Any) -> Any:
    return np.asarray(x.detach())


def same(a: Any, b: Any) -> None:
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(numpy(a), numpy(b))


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    c, k = words(counter), words(key)
    pair = lambda low, high: np.uint64(low | high << 32)
    assert philox.philox(pair(c[0], c[1]), pair(c[2], c[3]), pair(*k)).tolist() == [words(expected)]


def test_bits_count_blocks_from_zero_with_seed_and_draw_in_their_places():
    seed, draw = 0x299F31D0A4093822, 0x0370734413198A2E
    key = cr.asarray(np.array([seed, draw], np.uint64))
    blocks = philox.philox(np.arange(3, dtype=np.uint64), np.uint64(draw), np.uint64(seed))
    assert cr.random.random_bits(key, 10).tolist() == blocks.ravel()[:10].tolist()
    pairs = blocks.ravel().astype(np.uint64)
    assert cr.random.random_bits(key, (2, 3), dtype="uint64").tolist() == (pairs[0::2] | pairs[1::2] << np.uint64(32)).reshape(2, 3).tolist()


@settings(max_examples=30)
@given(st.integers(0, 70), st.integers(0, 4), st.integers(1, 7))
def test_bits_do_not_depend_on_how_the_work_is_cut(count, keys, chunk):
    key = cr.random.split(cr.random.key(3), keys)
    whole = cr.random.random_bits(key, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(philox, "_CHUNK", chunk)
        same(cr.random.random_bits(key, count), whole)
    assert whole.shape == (keys, count)
    for one, row in zip(key, whole, strict=True):
        same(cr.random.random_bits(one, count), row)


def test_a_longer_draw_begins_like_a_shorter_one():
    key = cr.random.key(5)
    same(cr.random.random_bits(key, 1000)[:10], cr.random.random_bits(key, 10))


def test_equal_seeds_give_equal_numbers_and_other_seeds_others():
    draw = lambda seed: cr.random.uniform((5,), generator=cr.random.Generator(seed))
    same(draw(1), draw(1))
    assert not (draw(1) == draw(2)).any()
    assert not (draw(1) == draw(1 + 2**32)).any()
    same(draw(-1), draw(2**64 - 1))


def test_manual_seed_governs_everything_that_names_no_generator():
    first, second = [], []
    for results in (first, second):
        cr.manual_seed(11)
        results += [cr.random.uniform((3,)), cr.random.normal((3,)), cr.random.permutation(5), cr.random.bernoulli(0.5, 9)]
    for a, b in zip(first, second, strict=True):
        same(a, b)
    assert not (first[0] == cr.random.uniform((3,))).any()


def test_draws_of_one_generator_differ_and_leave_others_alone():
    mine, other = cr.random.Generator(0), cr.random.Generator(0)
    rows = [cr.random.uniform((4,), generator=mine) for _ in range(5)]
    assert len({tuple(row.tolist()) for row in rows}) == 5
    same(cr.random.uniform((4,), generator=other), rows[0])


def test_a_saved_state_continues_where_it_was():
    generator = cr.random.Generator(4)
    cr.random.normal((3,), generator=generator)
    state = generator.get_state()
    expected = cr.random.normal((3,), generator=generator)
    assert state.tolist() == [4, 1]
    assert repr(generator) == "Generator(seed=4, draws=2)"
    generator.set_state(numpy(state))
    same(cr.random.normal((3,), generator=generator), expected)
    for copied in (copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))):
        same(cr.random.uniform((3,), generator=copied), cr.random.uniform((3,), key=generator.get_state()))
    with pytest.raises(DtypeError, match="key"):
        generator.set_state([1, 2])


def test_a_key_says_it_all():
    key = cr.random.key(1)
    same(cr.random.uniform((3,), key=key), cr.random.uniform((3,), key=key))
    same(cr.random.uniform((3,), key=key), cr.random.uniform((3,), generator=cr.random.Generator(1)))
    with pytest.raises(ArgumentError, match="both a key and a generator"):
        cr.random.uniform((3,), key=key, generator=cr.random.Generator(1))
    with pytest.raises(ShapeError, match="key"):
        cr.random.uniform((3,), key=cr.random.split(key))


def test_derived_keys_are_distinct_and_unlike_any_draw():
    key = cr.random.key(9)
    keys = cr.random.fold_in(key, np.arange(1000))
    assert len({tuple(row) for row in keys.tolist()}) == 1000
    same(cr.random.fold_in(key, 7), keys[7])
    same(cr.random.split(key, 3), keys[:3])
    nested = cr.random.fold_in(keys[:4], np.arange(12).reshape(4, 3))
    same(nested[2, 1], cr.random.fold_in(keys[2], 7))
    drawn = set(cr.random.random_bits(key, 4000, dtype="uint64").tolist())
    assert not drawn & set(numpy(keys).ravel().tolist())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
class TestDistributions:
    """Moments of a hundred thousand numbers, within five standard errors."""

    count = 100_000

    def near(self, x, mean, std, kurtosis):
        x = numpy(x).astype(np.float64)
        assert x.shape == (self.count,)
        assert abs(x.mean() - mean) < 5 * std / math.sqrt(self.count)
        assert abs(x.var() - std**2) < 5 * std**2 * math.sqrt((kurtosis - 1) / self.count)
        # Neighbours, and the halves that Box and Muller's method makes of the same bits, are uncorrelated.
        for lag in (1, 2, 4, self.count // 2):
            assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < 5 / math.sqrt(self.count - lag)

    def test_uniform(self, dtype):
        x = cr.random.uniform((self.count,), dtype=dtype, key=cr.random.key(1))
        assert x.dtype == np.dtype(dtype)
        assert 0 <= numpy(x).min() < numpy(x).max() < 1
        self.near(x, 0.5, math.sqrt(1 / 12), 1.8)
        counts = np.histogram(numpy(x), bins=100, range=(0, 1))[0]
        assert ((counts - self.count / 100) ** 2 / (self.count / 100)).sum() < 99 + 5 * math.sqrt(2 * 99)

    def test_normal(self, dtype):
        x = cr.random.normal((self.count,), dtype=dtype, key=cr.random.key(2))
        assert x.dtype == np.dtype(dtype)
        self.near(x, 0.0, 1.0, 3.0)
        for cut in (1.0, 2.0, 3.0):
            p = math.erfc(cut / math.sqrt(2))
            assert abs((abs(numpy(x)) > cut).mean() - p) < 5 * math.sqrt(p / self.count)

    def test_exponential(self, dtype):
        self.near(cr.random.exponential((self.count,), dtype=dtype, key=cr.random.key(3)), 1.0, 1.0, 9.0)

    def test_gumbel(self, dtype):
        x = cr.random.gumbel((self.count,), dtype=dtype, key=cr.random.key(4))
        assert np.isfinite(numpy(x)).all()
        self.near(x, 0.5772156649, math.pi / math.sqrt(6), 5.4)


def test_the_extreme_bits_give_finite_numbers(monkeypatch):
    for bits in (0, 2**32 - 1):
        monkeypatch.setattr(cr.random, "random_bits", lambda key, shape, dtype, bits=bits: cr.full(shape, bits, dtype=dtype))
        for draw in (cr.random.uniform, cr.random.normal, cr.random.exponential, cr.random.gumbel):
            assert np.isfinite(numpy(draw((2,)))).all()
        assert 0 <= cr.random.uniform().item() < 1


def test_bernoulli_has_the_probabilities_it_is_given():
    p = np.array([0.0, 0.25, 0.9, 1.0])
    x = numpy(cr.random.bernoulli(p, (10_000, 1), key=cr.random.key(5)))
    assert x.dtype == bool
    assert x.shape == (10_000, 4)
    np.testing.assert_allclose(x.mean(axis=0), p, atol=5 * math.sqrt(0.25 / 10_000))
    assert x[:, 0].sum() == 0
    assert x[:, 3].all()


def test_randint_covers_its_range_evenly():
    x = cr.random.randint((60_000,), -2, 4, key=cr.random.key(6))
    assert x.dtype == np.int64
    values, counts = np.unique(numpy(x), return_counts=True)
    assert values.tolist() == [-2, -1, 0, 1, 2, 3]
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 5 + 5 * math.sqrt(10)
    assert cr.random.randint((2,), 0, 9, dtype="uint8").dtype == np.uint8
    with pytest.raises(ArgumentError, match="no integers from 3 to 3"):
        cr.random.randint((2,), 3, 3)


def test_permutations_are_permutations_and_every_order_comes_up():
    orders = [tuple(cr.random.permutation(3, key=k).tolist()) for k in cr.random.split(cr.random.key(7), 600)]
    names, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(names) == 6
    assert ((counts - 100) ** 2 / 100).sum() < 5 + 5 * math.sqrt(10)
    assert sorted(cr.random.permutation(1000).tolist()) == list(range(1000))
    assert cr.random.permutation(0).shape == (0,)


def test_permuted_slices_keep_together_and_their_gradients_find_back():
    x = cr.tensor(np.arange(12.0).reshape(3, 4), requires_grad=True)
    y = cr.random.permutation(x, axis=1, key=cr.random.key(8))
    assert sorted(map(tuple, numpy(y).T.tolist())) == sorted(map(tuple, numpy(x).T.tolist()))
    (y * y).sum().backward()
    np.testing.assert_allclose(numpy(x.grad), 2 * numpy(x))


def test_categorical_draws_each_class_as_often_as_softmax_says():
    logits = np.log([[0.1, 0.2, 0.7], [0.5, 0.5, 1e-30]])
    x = cr.random.categorical(logits, shape=(20_000,), key=cr.random.key(10))
    assert x.shape == (20_000, 2)
    frequencies = np.stack([(numpy(x) == c).mean(axis=0) for c in range(3)], axis=1)
    np.testing.assert_allclose(frequencies, np.exp(logits), atol=5 * math.sqrt(0.25 / 20_000))
    assert cr.random.categorical(np.zeros((4, 3, 5)), axis=0).shape == (3, 5)
    assert int(numpy(cr.random.categorical(np.zeros((4, 3, 5)), axis=0)).max()) <= 3


def test_gradients_flow_to_the_parameters_of_a_distribution():
    low, high, mean, std = (cr.tensor(v, requires_grad=True) for v in (0.0, 2.0, 1.0, 3.0))
    u = cr.random.uniform((5,), key=cr.random.key(12))
    cr.random.uniform((5,), low, high, key=cr.random.key(12)).sum().backward()
    np.testing.assert_allclose([low.grad.item(), high.grad.item()], [5 - u.sum().item(), u.sum().item()], rtol=1e-6)
    z = cr.random.normal((5,), key=cr.random.key(13))
    cr.random.normal((5,), mean, std, key=cr.random.key(13)).sum().backward()
    np.testing.assert_allclose([mean.grad.item(), std.grad.item()], [5.0, z.sum().item()], rtol=1e-5)


def test_parameters_that_broadcast_get_numbers_of_their_own():
    x = cr.random.normal((), np.zeros(4), np.ones((3, 1)))
    assert x.shape == (3, 4)
    assert x.dtype == np.float64
    assert len(np.unique(numpy(x))) == 12
    with pytest.raises(DtypeError, match="float32 or float64"):
        cr.random.uniform((2,), dtype="int32")


def test_dropout_keeps_the_mean_and_sends_gradients_where_values_went():
    x = cr.tensor(np.ones((100, 100)), requires_grad=True)
    y = cr.random.dropout(x, 0.2, key=cr.random.key(14))
    assert abs(numpy(y).mean() - 1) < 5 * 0.5 / 100
    assert set(np.unique(numpy(y))) == {0.0, 1.25}
    y.sum().backward()
    np.testing.assert_array_equal(numpy(x.grad), numpy(y))
    np.testing.assert_array_equal(numpy(cr.random.dropout(x, 0.2, training=False)), numpy(x))
    with pytest.raises(ArgumentError, match="rate=1"):
        cr.random.dropout(x, 1.0)
    assert cr.random.dropout(x, 1 - 1e-12).shape == (100, 100)
