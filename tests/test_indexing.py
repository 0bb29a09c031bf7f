"""Square brackets: reading and writing agree with NumPy for every form of index, and so do their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import chainrule as cr
from chainrule.core.errors import ArgumentError, AxisError, DtypeError, GradientError, ShapeError

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def entry(draw: st.DrawFn, sizes: tuple[int, ...], common: tuple[int, ...]) -> tuple[Any, int]:
    """One entry of an index, and how many of the axes it uses up."""
    size = sizes[0]
    kinds = ["slice", "mask"] if not size else ["slice", "int", "int", "array", "array", "list", "mask"]
    kind = draw(st.sampled_from(kinds))
    if kind == "slice":
        return draw(st.slices(size)), 1
    if kind == "int":
        return draw(st.integers(-size, size - 1)), 1
    if kind == "mask":
        rank = draw(st.integers(1, len(sizes)))
        return draw(hnp.arrays(bool, sizes[:rank])), rank
    array = draw(hnp.arrays(np.int64, draw(st.sampled_from([common, common[1:], (1,) * len(common)])), elements=st.integers(-size, size - 1)))
    return (array.tolist() if kind == "list" and array.size else array), 1


@st.composite
def indexed(draw: st.DrawFn) -> tuple[np.ndarray, Any]:
    """An array and an index for it that NumPy takes, of any mixture of forms."""
    shape = draw(SHAPES)
    x = (np.arange(np.prod(shape, dtype=int)) + 0.5).reshape(shape)
    common = draw(hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=3))
    index: list[Any] = []
    axis = 0
    dots = len(shape) + 1 if draw(st.booleans()) else draw(st.integers(0, len(shape)))
    while axis < len(shape):
        if axis >= dots:
            # What comes behind the ellipsis must use up all axes that it leaves.
            index.append(...)
            axis, dots = draw(st.integers(axis, len(shape))), len(shape) + 1
        elif ... not in [item for item in index if not isinstance(item, np.ndarray)] and draw(st.integers(0, 4)) == 4:
            break
        else:
            item, used = draw(entry(shape[axis:], common))
            index.append(item)
            axis += used
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        index.insert(draw(st.integers(0, len(index))), None)
    native = index[0] if len(index) == 1 and draw(st.booleans()) else tuple(index)
    try:
        x[native]
    except IndexError:
        native = ()
    return x, native


def tensors(index: Any, make: Callable[[Any], Any]) -> Any:
    """The index with its arrays passed through ``make``."""
    if isinstance(index, tuple):
        return tuple(tensors(item, make) for item in index)
    return make(index) if isinstance(index, np.ndarray) else index


@given(indexed(), st.sampled_from([lambda array: array, cr.asarray]))
def test_reading_is_numpys(case: tuple[np.ndarray, Any], make: Callable[[Any], Any]) -> None:
    x, index = case
    ours = cr.asarray(x)[tensors(index, make)]
    assert ours.shape == x[index].shape
    assert_array_equal(ours.numpy(), x[index])


@given(indexed())
def test_gradient_of_reading_adds_at_every_element_read(case: tuple[np.ndarray, Any]) -> None:
    x, index = case
    tensor = cr.tensor(x, requires_grad=True)
    y = tensor[index]
    weights = np.arange(1.0, y.size + 1).reshape(y.shape)
    y.backward(cr.asarray(weights))
    expected = np.zeros_like(x)
    np.add.at(expected, index, weights)
    assert tensor.grad is not None
    assert_allclose(tensor.grad.numpy(), expected)


@given(indexed(), st.data())
def test_writing_is_numpys(case: tuple[np.ndarray, Any], data: st.DataObject) -> None:
    x, index = case
    target = x[index].shape
    thin = tuple(1 if i % 2 else size for i, size in enumerate(target))
    shape = data.draw(st.sampled_from([target, target[1:], (1, *target) if target else (), (), thin]))
    value = -np.arange(1.0, np.prod(shape, dtype=int) + 1).reshape(shape)
    expected = x.copy()
    try:
        expected[index] = value
    except TypeError:  # NumPy takes no axes of size 1 in front beside some masks.
        reject()
    assert_array_equal(cr.index_update(x, index, value).numpy(), expected)


@given(indexed(), st.booleans())
def test_gradients_of_writing_are_those_of_what_is_left(case: tuple[np.ndarray, Any], full: bool) -> None:
    x, index = case
    old = cr.tensor(x, requires_grad=True)
    new = cr.tensor(-np.ones(x[index].shape if full else ()), requires_grad=True)
    y = cr.index_update(old, index, new)
    weights = np.arange(1.0, x.size + 1).reshape(x.shape)
    old_ct, new_ct = cr.autograd.grad(y, [old, new], cr.asarray(weights))
    assert old_ct is not None
    assert new_ct is not None
    kept = weights.copy()
    kept[index] = 0
    assert_allclose(old_ct.numpy(), kept)
    # Of several values at one position the last stays, so it alone has that position's weight.
    writer = np.full(x.shape, -1)
    numbers = np.arange(x[index].size).reshape(x[index].shape)
    writer[index] = numbers
    expected = np.where(writer[index] == numbers, weights[index], 0.0)
    assert_allclose(new_ct.numpy(), expected if full else expected.sum())


@given(indexed())
def test_adding_at_an_index_adds_every_time(case: tuple[np.ndarray, Any]) -> None:
    x, index = case
    value = np.arange(1.0, x[index].size + 1).reshape(x[index].shape)
    expected = x.copy()
    np.add.at(expected, index, value)
    assert_allclose(cr.index_add(x, index, value).numpy(), expected)
    assert_allclose(cr.place(value, index, shape=x.shape).numpy(), expected - x)


@given(indexed())
def test_second_derivatives_flow_through_reading_and_writing(case: tuple[np.ndarray, Any]) -> None:
    x, index = case

    def f(x: cr.Tensor) -> cr.Tensor:
        return (cr.index_update(x * x, index, 3.0 * x[index]) * x).sum()

    # Each element is x**3 where nothing is written; the gradient of the gradient's sum is linear there.
    gradient = cr.grad(lambda x: cr.grad(f)(x).sum())(cr.asarray(x))
    untouched = np.ones(x.shape, bool)
    untouched[index] = False
    alone = untouched & ~_read(x.shape, index)
    assert_allclose(gradient.numpy()[alone], 6 * x[alone])


def _read(shape: tuple[int, ...], index: Any) -> np.ndarray:
    read = np.zeros(shape, bool)
    read[index] = True
    return read


@pytest.mark.parametrize(
    ("index", "error", "says"),
    [
        (3, AxisError, "index 3 is out of range for axis 0 of size 3"),
        ((0, -5), AxisError, "index -5 is out of range for axis 1 of size 4"),
        ([0, 3], AxisError, "index 3 is out of range for axis 0 of size 3"),
        (([0, 1], [0, 4]), AxisError, "index 4 is out of range for axis 1 of size 4"),
        ((0, 0, 0), AxisError, "too long for shape (3, 4)"),
        ((..., 0, ...), AxisError, "only one ellipsis"),
        (0.5, DtypeError, "not an index"),
        ("name", DtypeError, "not an index"),
        (np.ones(2, bool), AxisError, "a mask of shape (2,)"),
        (([0, 1], [0, 1, 2]), ShapeError, "do not broadcast"),
        (slice(None, None, 0), DtypeError, "zero"),
    ],
)
def test_an_impossible_index_is_named(index: Any, error: type[Exception], says: str) -> None:
    x = cr.zeros((3, 4))
    with pytest.raises(error) as raised:
        x[index]
    assert says in str(raised.value)
    with pytest.raises(error):
        cr.index_update(x, index, 1.0)


def test_assignment_rebinds_the_name_and_leaves_others_alone() -> None:
    x = cr.asarray([1.0, 2.0, 3.0])
    alias, view = cr.asarray(x.numpy()), x[1:]
    before = x * 1
    x[1] = 20.0
    assert x.tolist() == [1.0, 20.0, 3.0]
    assert alias.tolist() == before.tolist() == [1.0, 2.0, 3.0]
    assert view.tolist() == [2.0, 3.0]


def test_what_reads_a_whole_tensor_is_a_name_of_its_own() -> None:
    x = cr.asarray([1.0, 2.0])
    for y in (x[:], x[...], cr.broadcast_arrays(x, x)[0], cr.moveaxis(x, 0, 0), cr.reshape(x, (2,)), cr.tile(x, (1,)), cr.concat([x])):
        y += 1
        assert x.tolist() == [1.0, 2.0]


def test_assignment_in_the_middle_of_a_graph_cuts_the_old_value_out() -> None:
    x = cr.tensor([1.0, 2.0, 3.0], requires_grad=True)
    v = cr.tensor(5.0, requires_grad=True)
    y = x * x
    early = y.sum()
    y[0] = v * 2
    (y.sum() + early).backward()
    assert x.grad is not None
    assert v.grad is not None
    assert x.grad.tolist() == [2.0, 8.0, 12.0]
    assert v.grad.item() == 2.0


def test_a_leaf_that_requires_a_gradient_is_written_to_under_no_grad_only() -> None:
    x = cr.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(GradientError, match="no_grad"):
        x[0] = 5.0
    with cr.no_grad():
        x[0] = 5.0
    assert x.is_leaf
    assert x.tolist() == [5.0, 2.0]


def test_augmented_assignment_of_a_part_reads_and_writes_it() -> None:
    x = cr.zeros((2, 3))
    x[0] += 1
    x[:, 1] *= 5
    assert x.tolist() == [[1.0, 5.0, 1.0], [0.0, 0.0, 0.0]]


def test_writing_a_wider_kind_is_refused_and_a_wider_dtype_narrowed() -> None:
    with pytest.raises(DtypeError, match="without loss"):
        cr.index_update(cr.asarray([1, 2]), 0, 0.5)
    assert cr.index_update(cr.asarray([1.0, 2.0]), 0, np.float64(0.5)).dtype == cr.float32


def test_nothing_not_taken_leaks_from_a_masked_write() -> None:
    x = cr.tensor([0.0, 4.0], requires_grad=True)
    y = cr.index_update(cr.sqrt(x), x == 0, 0.0)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.25]


@pytest.mark.parametrize("repeats", [1, 3, 50])
@pytest.mark.parametrize("width", [1, 4, 200])
def test_many_values_at_one_position_are_summed(repeats: int, width: int) -> None:
    rng = np.random.default_rng(0)
    index = rng.permutation(np.repeat(np.arange(7), repeats))
    index[::2] -= 8
    values = rng.normal(size=(index.size, width))
    expected = np.zeros((8, width))
    np.add.at(expected, index, values)
    assert_allclose(cr.scatter_add(index, values, shape=(8, width), axes=0).numpy(), expected, atol=1e-12)


def test_gradient_of_an_embedding_is_that_of_a_product_with_one_hot_rows() -> None:
    rng = np.random.default_rng(1)
    table = cr.tensor(rng.normal(size=(10, 20)), requires_grad=True)
    words = rng.integers(0, 10, (4, 30))
    weights = cr.asarray(rng.normal(size=(4, 30, 20)))
    looked_up = (cr.take(table, words, axis=0) * weights).sum()
    multiplied = (cr.one_hot(words, 10, dtype=cr.float64) @ table * weights).sum()
    (ours,), (other,) = cr.autograd.grad(looked_up, [table]), cr.autograd.grad(multiplied, [table])
    assert ours is not None
    assert other is not None
    assert_allclose(ours.numpy(), other.numpy(), atol=1e-12)


def test_iteration_back_is_linear_in_the_number_of_rows() -> None:
    x = cr.tensor(np.ones((2000, 3)), requires_grad=True)
    total = cr.stack([row * (i % 3) for i, row in enumerate(x)]).sum()
    total.backward()
    assert x.grad is not None
    assert x.grad[4].tolist() == [1.0, 1.0, 1.0]


@given(hnp.arrays(np.int64, hnp.array_shapes(max_dims=3, max_side=5), elements=st.integers(-3, 3)), st.data())
def test_sorting_keeps_the_order_of_equals(x: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    up, down = cr.argsort(x, axis=axis).numpy(), cr.argsort(x, axis=axis, descending=True).numpy()
    assert_array_equal(up, np.argsort(x, axis=axis, kind="stable"))
    assert_array_equal(down, np.argsort(-x, axis=axis, kind="stable"))
    assert_array_equal(cr.sort(x, axis=axis, descending=True).numpy(), np.take_along_axis(x, down, axis))
    k = data.draw(st.integers(0, x.shape[axis]))
    for mode, order in (("largest", down), ("smallest", up)):
        best = cr.top_k(x, k, axis=axis, mode=mode)
        first = np.take(order, np.arange(k), axis)
        assert_array_equal(best.indices.numpy(), first)
        assert_array_equal(best.values.numpy(), np.take_along_axis(x, first, axis))


@pytest.mark.parametrize("ties", [0, 5, 2000])
def test_order_of_many_numbers_is_stable_too(ties: int) -> None:
    x = np.random.default_rng(0).normal(size=(4, 3000))
    x[1, :ties] = 0.5
    x[2, :ties] = np.nan
    descending = x.shape[1] - 1 - np.argsort(x[:, ::-1], kind="stable")[:, ::-1]
    assert_array_equal(cr.argsort(x).numpy(), np.argsort(x, kind="stable"))
    assert_array_equal(cr.argsort(x, descending=True).numpy(), descending)
    assert_array_equal(cr.top_k(x, 7).indices.numpy(), descending[:, :7])
    assert_array_equal(cr.top_k(x, 7, mode="smallest").indices.numpy(), np.argsort(x, kind="stable")[:, :7])


def test_gradient_of_sorted_values_with_ties_keeps_their_order() -> None:
    x = cr.tensor([2.0, 1.0, 2.0, 1.0], requires_grad=True)
    cr.sort(x, descending=True).backward(cr.asarray([1.0, 2.0, 3.0, 4.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 3.0, 2.0, 4.0]


def test_distinct_values_carry_gradients_to_their_first_occurrence() -> None:
    x = cr.tensor([3.0, 1.0, 3.0], requires_grad=True)
    cr.unique_values(x).backward(cr.asarray([1.0, 10.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [10.0, 1.0, 0.0]


def test_every_nan_is_distinct() -> None:
    found = cr.unique_all([float("nan"), 1.0, float("nan")])
    assert found.counts.tolist() == [1, 1, 1]
    assert found.inverse_indices.shape == (3,)


@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric", "wrap"])
@pytest.mark.parametrize("width", [(1, 2), (7, 9)])
def test_borders_continue_as_numpys_do(mode: Any, width: tuple[int, int]) -> None:
    x = np.arange(12.0).reshape(3, 4)
    assert_array_equal(cr.pad(x, (width, (0, 1)), mode).numpy(), np.pad(x, (width, (0, 1)), mode))


def test_repetition_by_counts_sums_gradients_per_element() -> None:
    x = cr.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = cr.repeat(x, cr.asarray([2, 0, 3]))
    assert y.tolist() == [1.0, 1.0, 3.0, 3.0, 3.0]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 0.0, 3.0]
    with pytest.raises(ArgumentError, match="counts for 3 positions"):
        cr.repeat(x, [1, 2])
