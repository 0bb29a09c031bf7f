"""Gradients in PyTorch's manner: backward, leaves, hooks, freeing, subsets of inputs, rebinding names."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import ArgumentError, DtypeError, GradientError, ShapeError


def leaf(value):
    return cr.tensor(value, dtype=cr.float64, requires_grad=True)


def test_gradients_accumulate_until_they_are_cleared():
    x = leaf([1.0, 2.0])
    for _ in range(2):
        (x * x).sum().backward()
    assert x.grad.tolist() == [4, 8]
    x.grad = None
    (3 * x).sum().backward()
    assert x.grad.tolist() == [3, 3]


def test_backward_of_a_vector_needs_a_gradient_of_its_shape():
    y = leaf([1.0, 2.0]) * 2
    with pytest.raises(GradientError, match="scalar only"):
        y.backward()
    with pytest.raises(GradientError, match=r"shape \(3,\)"):
        y.backward([1.0, 2.0, 3.0])


def test_backward_of_something_without_history_says_so():
    with pytest.raises(GradientError, match="does not depend on anything that requires a gradient"):
        cr.tensor(1.0).backward()


def test_errors_name_the_line_of_the_caller():
    with pytest.raises(GradientError, match=r"test_autograd.py:\d+: cr.tensor\(2.0\).backward\(\)"):
        cr.tensor(2.0).backward()


def test_a_graph_is_freed_by_backward_unless_retained():
    x = leaf(2.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 8
    with pytest.raises(GradientError, match="retain_graph=True"):
        y.backward()


def test_nodes_that_saved_nothing_serve_again():
    x = leaf(2.0)
    shifted = x + 1
    (shifted * 2).backward()
    (shifted * 3).backward()
    assert x.grad.item() == 5


def test_grad_returns_gradients_of_any_subset_and_touches_no_leaf():
    x, w = leaf(3.0), leaf(4.0)
    y = x * w
    z = y * y
    gy, gx = cr.autograd.grad(z, [y, x])
    assert (gy.item(), gx.item()) == (24, 96)
    assert x.grad is None
    assert w.grad is None


def test_only_the_needed_part_of_the_graph_is_swept():
    x, w = leaf(3.0), leaf(4.0)
    seen = []

    class Watch(cr.Function):
        @staticmethod
        def forward(ctx, a):
            return a * 1.0

        @staticmethod
        def backward(ctx, ct):
            seen.append("watched")
            return ct

    y = Watch.apply(x) * w
    cr.autograd.grad(y, [w], retain_graph=True)
    assert seen == []
    cr.autograd.grad(y, [x])
    assert seen == ["watched"]


def test_unused_inputs_are_none_when_allowed_and_an_error_otherwise():
    x, unused = leaf(3.0), leaf(1.0)
    y = x * x
    assert cr.autograd.grad(y, [x, unused], allow_unused=True, retain_graph=True)[1] is None
    with pytest.raises(GradientError, match="input 1"):
        cr.autograd.grad(y, [x, unused])


def test_backward_to_chosen_inputs_leaves_the_others_alone():
    x, w = leaf(3.0), leaf(4.0)
    (x * w).backward(inputs=[x])
    assert x.grad.item() == 4
    assert w.grad is None


def test_several_outputs_are_swept_at_once():
    x = leaf(3.0)
    cr.autograd.backward([x * x, 5 * x])
    assert x.grad.item() == 11


def test_create_graph_gives_gradients_of_gradients():
    x = leaf(3.0)
    (first,) = cr.autograd.grad(x**4, [x], create_graph=True)
    (second,) = cr.autograd.grad(first, [x], create_graph=True)
    (third,) = cr.autograd.grad(second, [x])
    assert (first.item(), second.item(), third.item()) == (108, 108, 72)
    assert not third.requires_grad


def test_grad_of_a_leaf_can_be_differentiated_after_backward_with_create_graph():
    x = leaf(3.0)
    (x**3).backward(create_graph=True)
    gradient = x.grad
    x.grad = None
    gradient.backward()
    assert x.grad.item() == 18


def test_no_grad_and_enable_grad_nest_as_contexts_and_decorators():
    x = leaf(2.0)
    with cr.no_grad():
        assert not (x * x).requires_grad
        with cr.enable_grad():
            assert (x * x).requires_grad
        assert not (x * x).requires_grad

    @cr.no_grad()
    def square(x):
        return x * x

    assert not square(x).requires_grad
    assert (x * x).requires_grad


def test_no_grad_in_one_thread_leaves_the_others_recording():
    x = leaf(2.0)
    inside, done = threading.Event(), threading.Event()

    def quiet():
        with cr.no_grad():
            inside.set()
            done.wait(5)

    thread = threading.Thread(target=quiet)
    thread.start()
    assert inside.wait(5)
    assert (x * x).requires_grad
    done.set()
    thread.join()


def test_detach_cuts_the_path():
    x = leaf(3.0)
    (x.detach() * x).backward()
    assert x.grad.item() == 3


def test_intermediate_gradients_are_kept_when_asked_for():
    x = leaf(3.0)
    y = x * 2
    z = y * y
    y.retain_grad()
    z.backward()
    assert y.grad.item() == 12
    assert z.grad is None


def test_hooks_see_the_complete_gradient_can_change_it_and_can_be_removed():
    x = leaf(3.0)
    y = x * 1.0
    seen = []
    remove = y.register_hook(lambda ct: seen.append(ct.item()) or ct * 10)
    z = y * y + y
    z.backward(retain_graph=True)
    assert seen == [7]
    assert x.grad.item() == 70
    remove()
    z.backward()
    assert seen == [7]
    assert x.grad.item() == 77


def test_a_hook_on_a_leaf_changes_what_is_accumulated():
    x = leaf(3.0)
    x.register_hook(lambda ct: -ct)
    (x * x).backward()
    assert x.grad.item() == -6


def test_a_hook_that_returns_the_wrong_shape_is_refused():
    x = leaf(3.0)
    x.register_hook(lambda ct: cr.ones(2))
    with pytest.raises(GradientError, match="hook"):
        (x * x).backward()


@pytest.mark.parametrize("dtype", [cr.int64, cr.bool])
def test_integers_and_booleans_never_require_gradients(dtype):
    with pytest.raises(GradientError, match="floating-point"):
        cr.zeros(3, dtype=dtype).requires_grad_()


def test_asking_for_complex_gradients_says_what_is_missing():
    with pytest.raises(GradientError, match="complex"):
        cr.tensor([1j], requires_grad=True)


def test_rebinding_a_name_changes_nothing_that_others_hold():
    x = cr.tensor([1.0, 2.0])
    alias_of_value, view = x.detach(), x[0]
    x += 1
    x[0] = 7.0
    assert x.tolist() == [7, 3]
    assert alias_of_value.tolist() == [1, 2]
    assert view.item() == 1


def test_rebinding_after_use_leaves_the_recorded_graph_right():
    x = leaf([2.0, 3.0])
    y = x * 1.0
    z = (y * y).sum()
    y *= 100
    z.backward()
    assert x.grad.tolist() == [4, 6]


def test_in_place_arithmetic_is_differentiated_through():
    x = leaf([2.0, 3.0])
    y = x * 1.0
    y *= x
    y[0] = 5.0
    y.sum().backward()
    assert x.grad.tolist() == [0, 6]


def test_a_leaf_is_updated_in_place_under_no_grad_only_and_stays_a_leaf():
    w = leaf([1.0, 2.0])
    with pytest.raises(GradientError, match="no_grad"):
        w -= 1.0
    (w * w).sum().backward()
    with cr.no_grad():
        w -= 0.5 * w.grad
    assert w.tolist() == [0, 0]
    assert w.requires_grad
    assert w.is_leaf
    assert w.grad.tolist() == [2, 4]


def test_an_update_between_forward_and_backward_does_not_disturb_the_gradient():
    w = leaf(3.0)
    loss = w * w
    with cr.no_grad():
        w -= 100.0
    loss.backward()
    assert w.grad.item() == 6


def test_assign_keeps_shape_and_dtype():
    x = cr.zeros((2, 3))
    with pytest.raises(ShapeError, match=r"\(2, 3\)"):
        x.assign(cr.ones((3, 2)))
    x.assign(cr.ones((2, 3), dtype=cr.float64))
    assert x.dtype == cr.float32
    with pytest.raises(DtypeError, match="complex64"):
        x.assign(cr.ones((2, 3), dtype=cr.complex64))
    with pytest.raises(DtypeError, match="float32"):
        cr.zeros(2, dtype=cr.int64).assign([0.5, 0.5])
    with pytest.raises(ShapeError):
        x += cr.ones((4, 2, 3))


def test_tensors_never_see_later_writes_to_the_array_they_came_from():
    array = np.ones(3)
    x = cr.asarray(array)
    y = cr.tensor(array)
    array[:] = 5
    assert x.tolist() == y.tolist() == [1, 1, 1]


def test_arrays_exported_from_tensors_cannot_be_written_to():
    x = cr.ones(3)
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(x)[0] = 2
    np.array(x)[0] = 2
    assert x.tolist() == [1, 1, 1]


def test_branches_of_a_deep_diamond_add_up():
    x = leaf(1.0)
    y = x
    for _ in range(30):
        y = y + y
    y.backward()
    assert x.grad.item() == 2**30


def test_absent_is_not_zero():
    x, w = leaf(2.0), leaf(3.0)
    y = x * 0.0
    gx, gw = cr.autograd.grad(y, [x, w], allow_unused=True)
    assert gx.item() == 0
    assert gw is None


def test_where_lets_no_nan_of_the_branch_not_taken_into_first_and_second_derivatives():
    def safe_log(x):
        return cr.where(x > 0, cr.log(x), 0.0)

    x = cr.tensor([-1.0, 0.0, 2.0], dtype=cr.float64)
    first = cr.grad(lambda x: safe_log(x).sum())
    second = cr.grad(lambda x: first(x).sum())
    with np.errstate(all="ignore"):
        assert first(x).tolist() == [0, 0, 0.5]
        assert second(x).tolist() == [0, 0, -0.25]


def test_where_keeps_second_derivatives_where_the_first_happens_to_vanish():
    def loss(x):
        return cr.where(x > 0, (x * x - 4.0) ** 2, 0.0)

    assert cr.grad(cr.grad(loss))(2.0).item() == 32


def test_deepcopy_and_pickle_keep_values_and_leaves():
    w = leaf([1.0, 2.0])
    for other in (copy.deepcopy(w), pickle.loads(pickle.dumps(w))):
        assert other.tolist() == w.tolist()
        assert other.requires_grad
    with pytest.raises(GradientError, match="leaves"):
        copy.deepcopy(w * 2)


def test_truth_of_several_elements_is_an_error_with_the_mend():
    with pytest.raises(ShapeError, match=r"cr\.where"):
        bool(cr.ones(2) > 0)
    assert bool(cr.ones(1) > 0)


def test_requires_grad_can_be_turned_off_on_leaves_only():
    w = leaf(1.0)
    w.requires_grad_(False)
    assert not w.requires_grad
    with pytest.raises(GradientError, match="detach"):
        (leaf(1.0) * 2).requires_grad_(False)


def test_a_count_of_gradients_that_does_not_match_is_refused():
    x = leaf(1.0)
    with pytest.raises(GradientError, match="2 outputs, but 1"):
        cr.autograd.backward([x * 1, x * 2], [cr.tensor(1.0)])


def test_argnums_out_of_range():
    with pytest.raises(ArgumentError, match="argnums=2"):
        cr.grad(lambda x: x, argnums=2)(1.0)


def test_gradients_are_names_of_their_own():
    x, y, ct = leaf([1.0, 2.0]), leaf([3.0, 4.0]), cr.ones(2, dtype=cr.float64)
    (x + y).backward(ct, create_graph=True)
    with cr.no_grad():
        x.grad *= 0.5
    assert (x.grad.tolist(), y.grad.tolist(), ct.tolist()) == ([0.5, 0.5], [1, 1], [1, 1])
    _, pull = cr.vjp(lambda a, b: a + b, x.detach(), y.detach())
    first, second = pull(ct)
    first += 1
    assert (second.tolist(), ct.tolist()) == ([1, 1], [1, 1])


def test_converting_what_is_being_differentiated_to_numpy_is_an_error():
    with pytest.raises(GradientError, match="NumPy array"):
        cr.grad(lambda x: cr.sum(cr.asarray(np.sin(np.asarray(x)))))(cr.ones(2))


def test_lists_of_tensors_with_history_are_not_taken_apart_silently():
    x = leaf(1.0)
    with pytest.raises(GradientError, match=r"cr\.stack"):
        cr.asarray([x, 2 * x])
    with pytest.raises(GradientError, match=r"cr\.stack"):
        cr.add(cr.ones(2), [x, x])


@pytest.mark.parametrize("value", [0.0, np.zeros(2), lambda: cr.zeros(3), lambda: cr.zeros(2, dtype=cr.int64)])
def test_a_gradient_of_another_kind_cannot_be_set(value):
    x = leaf([1.0, 2.0])
    with pytest.raises(GradientError, match="cannot be set"):
        x.grad = value() if callable(value) else value


INF = float("inf")
SPOILT = np.array([[-INF, -INF, np.nan], [1.0, 2.0, 4.0]])
ROWS = np.array([[False], [True]])


@pytest.mark.parametrize(
    "f",
    [
        lambda x: cr.softmax(x),
        lambda x: cr.log_softmax(x),
        lambda x: cr.logsumexp(x, axis=1, keepdims=True),
        lambda x: cr.prod(x, axis=1, keepdims=True),
        lambda x: cr.var(x, axis=1, keepdims=True),
        lambda x: cr.cumulative_prod(x, axis=1),
        lambda x: x @ cr.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=cr.float64),
        lambda x: cr.layer_norm(x),
        lambda x: cr.einsum("ij,ij->i", x, x)[:, None],
    ],
)
def test_rows_not_taken_spoil_no_gradient_of_any_gate(f):
    def loss(x):
        return cr.sum(cr.where(ROWS, f(x), 0.0) ** 2)

    clean = SPOILT[1:]
    with np.errstate(all="ignore"):
        found = cr.grad(loss)(SPOILT)
        second = cr.grad(lambda x: cr.sum(cr.grad(loss)(x)[1]))(SPOILT)
    expected = cr.grad(lambda x: cr.sum(f(x) ** 2))(clean)
    np.testing.assert_allclose(found, np.vstack([np.zeros((1, 3)), np.asarray(expected)]), rtol=1e-12)
    again = cr.grad(lambda x: cr.sum(cr.grad(lambda x: cr.sum(f(x) ** 2))(x)))(clean)
    np.testing.assert_allclose(np.asarray(second)[1:], np.asarray(again), rtol=1e-9, atol=1e-12)


def test_weights_see_no_infinity_of_rows_that_are_not_taken():
    x = np.where(np.isnan(SPOILT), INF, SPOILT)
    w = leaf(np.ones((3, 2)))
    with np.errstate(all="ignore"):
        cr.sum(cr.where(ROWS, x @ w, 0.0)).backward()
    assert w.grad.tolist() == [[1, 1], [2, 2], [4, 4]]


def test_nan_that_is_taken_stays():
    with np.errstate(all="ignore"):
        found = cr.grad(lambda x: cr.sum(cr.where(~ROWS, cr.softmax(x), 0.0)))(SPOILT)
    assert np.isnan(np.asarray(found)[0]).all()
    assert np.asarray(found)[1].tolist() == [0, 0, 0]


def test_numpy_functions_on_tensors_are_ours_or_a_clear_error():
    x = leaf([0.5, 1.0])
    np.arctan2(x, x).sum().backward()
    assert x.grad.tolist() == [0, 0]
    with pytest.raises(DtypeError, match=r"NumPy's add\.reduce"):
        np.add.reduce(x)
    array = np.ones(2)
    with pytest.raises(DtypeError, match="add, out="):
        array += x
