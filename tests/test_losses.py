"""Losses, regularizers and metrics: PyTorch's values and gradients, the worked examples, and errors that say the mend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ArgumentError, AxisError, ChainruleError, DtypeError, ShapeError
from chainrule.nn import losses, regularizers
from chainrule.training import metrics

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 4)) * 2
LABELS = np.array([0, 3, 1, 1, 2, 0])
PROBABILITIES = RNG.dirichlet(np.ones(4), 6)
BINARY = (RNG.uniform(size=(6, 4)) > 0.5).astype(np.float64)
TARGETS = RNG.normal(size=(6, 4))
LOG_P = np.log(RNG.dirichlet(np.ones(4), 6))
WEIGHTS = np.array([0.5, 3.0, 1.0, 0.0])


class Case(NamedTuple):
    """A call of a loss, and the same in PyTorch: of its functions, outputs, targets and the reduction."""

    loss: Callable[..., cr.Tensor]
    outputs: np.ndarray
    targets: np.ndarray
    options: dict[str, Any]
    theirs: Callable[..., Any]


def weights(x: Any) -> Any:
    """The class weights, as PyTorch's tensor of the dtype of ``x``."""
    return x.new_tensor(WEIGHTS)


def hinge_sum(p: int) -> Callable[..., Any]:
    """PyTorch divides by the number of classes."""

    def theirs(F: Any, x: Any, t: Any, r: str) -> Any:
        return 4 * F.multi_margin_loss(x, t, p=p, reduction=r)

    return theirs


def batchmean(F: Any, x: Any, t: Any, r: str) -> Any:
    if r == "none":
        return F.kl_div(x, t, reduction="none").sum(-1)
    return F.kl_div(x, t, reduction="batchmean" if r == "mean" else r)


def binary_hinge(F: Any, x: Any, t: Any, r: str) -> Any:
    each = F.relu(1 - x * t)
    return {"mean": each.mean, "sum": each.sum, "none": lambda: each}[r]()


CASES: dict[str, Case] = {
    "softmax cross-entropy": Case(
        losses.softmax_cross_entropy, LOGITS, LABELS, {}, lambda F, x, t, r: F.cross_entropy(x, t, reduction=r)
    ),
    "of probabilities": Case(
        losses.softmax_cross_entropy, LOGITS, PROBABILITIES, {}, lambda F, x, t, r: F.cross_entropy(x, t, reduction=r)
    ),
    "with smoothing": Case(
        losses.softmax_cross_entropy, LOGITS, LABELS, {"label_smoothing": 0.2},
        lambda F, x, t, r: F.cross_entropy(x, t, reduction=r, label_smoothing=0.2),
    ),
    "with weights": Case(
        losses.softmax_cross_entropy, LOGITS, LABELS, {"class_weights": WEIGHTS},
        lambda F, x, t, r: F.cross_entropy(x, t, weights(x), reduction=r),
    ),
    "with weights and smoothing": Case(
        losses.softmax_cross_entropy, LOGITS, LABELS, {"class_weights": WEIGHTS, "label_smoothing": 0.3},
        lambda F, x, t, r: F.cross_entropy(x, t, weights(x), reduction=r, label_smoothing=0.3),
    ),
    "of probabilities with weights and smoothing": Case(
        losses.softmax_cross_entropy, LOGITS, PROBABILITIES, {"class_weights": WEIGHTS, "label_smoothing": 0.3},
        lambda F, x, t, r: F.cross_entropy(x, t, weights(x), reduction=r, label_smoothing=0.3),
    ),
    "binary cross-entropy": Case(
        losses.sigmoid_cross_entropy, LOGITS, BINARY, {}, lambda F, x, t, r: F.binary_cross_entropy_with_logits(x, t, reduction=r)
    ),
    "binary with smoothing": Case(
        losses.sigmoid_cross_entropy, LOGITS, BINARY, {"label_smoothing": 0.2},
        lambda F, x, t, r: F.binary_cross_entropy_with_logits(x, t * 0.8 + 0.1, reduction=r),
    ),
    "binary with weights": Case(
        losses.sigmoid_cross_entropy, LOGITS, PROBABILITIES, {"pos_weight": WEIGHTS},
        lambda F, x, t, r: F.binary_cross_entropy_with_logits(x, t, pos_weight=weights(x), reduction=r),
    ),
    "negative log-likelihood": Case(
        losses.negative_log_likelihood, LOG_P, LABELS, {}, lambda F, x, t, r: F.nll_loss(x, t, reduction=r)
    ),
    "negative log-likelihood with weights": Case(
        losses.negative_log_likelihood, LOG_P, LABELS, {"class_weights": WEIGHTS},
        lambda F, x, t, r: F.nll_loss(x, t, weights(x), reduction=r),
    ),
    "Kullback-Leibler": Case(losses.kl_divergence, LOG_P, PROBABILITIES, {}, batchmean),
    "Kullback-Leibler with zeros": Case(losses.kl_divergence, LOG_P, np.eye(4)[LABELS], {}, batchmean),
    "multiclass hinge": Case(losses.multiclass_hinge, LOGITS, LABELS, {}, hinge_sum(1)),
    "squared hinge": Case(losses.squared_hinge, LOGITS, LABELS, {}, hinge_sum(2)),
    "hinge": Case(losses.hinge, LOGITS, 2 * BINARY - 1, {}, binary_hinge),
    "squared error": Case(losses.mean_squared_error, LOGITS, TARGETS, {}, lambda F, x, t, r: F.mse_loss(x, t, reduction=r)),
    "absolute error": Case(losses.mean_absolute_error, LOGITS, TARGETS, {}, lambda F, x, t, r: F.l1_loss(x, t, reduction=r)),
    "Huber": Case(losses.huber, LOGITS, TARGETS, {"delta": 0.7}, lambda F, x, t, r: F.huber_loss(x, t, delta=0.7, reduction=r)),
}  # fmt: skip
REDUCTIONS = ("mean", "sum", "none")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_pytorchs(name: str, reduction: str, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch: pip install torch==2.13.0")
    case = CASES[name]
    targets = case.targets if case.targets.dtype.kind == "i" else case.targets.astype(dtype)
    theirs = torch.tensor(case.outputs.astype(dtype), requires_grad=True)
    expected = case.theirs(torch.nn.functional, theirs, torch.tensor(targets), reduction)
    ours = cr.tensor(case.outputs, dtype=dtype, requires_grad=True)
    got = case.loss(ours, cr.tensor(targets), reduction=reduction, **case.options)
    assert got.dtype == dtype
    assert got.shape == tuple(expected.shape)
    back = np.random.default_rng(1).normal(size=got.shape).astype(dtype)
    got.backward(cr.tensor(back))
    expected.backward(torch.tensor(back))
    tolerance = 1e-9 if dtype == "float64" else 1e-6
    np.testing.assert_allclose(got.detach().numpy(), expected.detach().numpy(), rtol=tolerance, atol=tolerance)
    assert ours.grad is not None
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_the_slopes(name: str, reduction: str) -> None:
    case = CASES[name]
    assert cr.gradcheck(lambda x: case.loss(x, case.targets, reduction=reduction, **case.options), (case.outputs,))


@pytest.mark.parametrize("name", CASES)
def test_compiled_losses_are_the_eager_ones(name: str) -> None:
    case = CASES[name]
    results: list[tuple[Any, Any]] = []
    for compiled in (False, True):
        x = cr.tensor(case.outputs, requires_grad=True)

        def step(targets: cr.Tensor, x: cr.Tensor = x) -> cr.Tensor:
            x.grad = None
            loss = case.loss(x, targets, **case.options)
            loss.backward()
            return loss

        loss = (cr.compile(lambda targets, step=step: step(targets)) if compiled else step)(cr.tensor(case.targets))
        assert x.grad is not None
        results.append((loss.item(), x.grad.numpy()))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-12)
    np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "name", ["softmax cross-entropy", "with weights and smoothing", "negative log-likelihood", "multiclass hinge", "squared hinge"]
)
def test_more_axes_before_the_classes_are_more_examples(name: str) -> None:
    case = CASES[name]
    flat = case.loss(cr.tensor(case.outputs), case.targets, reduction="none", **case.options)
    nested = case.loss(cr.tensor(case.outputs.reshape(2, 3, 4)), case.targets.reshape(2, 3), reduction="none", **case.options)
    np.testing.assert_allclose(nested.numpy(), flat.numpy().reshape(2, 3), rtol=1e-12)


def test_every_loss_has_its_name_and_a_case() -> None:
    assert set(losses.LOSSES.values()) == {case.loss for case in CASES.values()}
    for name, loss in losses.LOSSES.items():
        assert losses.fetch(name) is loss is getattr(losses, name)
    assert losses.fetch(losses.huber) is losses.huber
    with pytest.raises(ArgumentError, match="did you mean 'mean_squared_error'"):
        losses.fetch("mean_square_error")


def test_the_svm_loss_of_the_worked_example() -> None:
    s = cr.tensor([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]], dtype="float64", requires_grad=True)
    each = losses.multiclass_hinge(s, [0, 1, 2], reduction="none")
    np.testing.assert_allclose(each.detach().numpy(), [2.9, 0.0, 12.9])
    each.sum().backward()
    assert s.grad is not None
    assert s.grad.tolist() == [[-1, 1, 0], [0, 0, 0], [1, 1, -2]]
    np.testing.assert_allclose(losses.multiclass_hinge(s, [0, 1, 2]).item(), 15.8 / 3)


def test_at_a_kink_the_derivative_is_0() -> None:
    def slope(loss: Callable[..., cr.Tensor], outputs: Any, targets: Any, **options: Any) -> Any:
        x = cr.tensor(outputs, dtype="float64", requires_grad=True)
        loss(x, targets, reduction="sum", **options).backward()
        assert x.grad is not None
        return x.grad.tolist()

    assert slope(losses.multiclass_hinge, [[2.0, 1.0]], [0]) == [[0, 0]]
    assert slope(losses.hinge, [1.0, -1.0], [1, -1]) == [0, 0]
    assert slope(losses.mean_absolute_error, [2.0], [2.0]) == [0]
    # Where the two halves of Huber's loss meet, they have one slope.
    assert slope(losses.huber, [0.5, -0.5], [0.0, 0.0], delta=0.5) == [0.5, -0.5]


def test_extreme_scores_give_finite_losses_and_gradients() -> None:
    for loss, targets in ((losses.softmax_cross_entropy, [1]), (losses.sigmoid_cross_entropy, [[0, 1, 1]])):
        x = cr.tensor([[1000.0, -1000.0, 0.0]], requires_grad=True)
        value = loss(x, targets)
        value.backward()
        assert np.isfinite(value.item())
        assert x.grad is not None
        assert np.isfinite(x.grad.numpy()).all()
    x = cr.tensor([[1000.0, -1000.0]], requires_grad=True)
    value = losses.sigmoid_cross_entropy(x, [[0.0, 1.0]], pos_weight=3.0, reduction="sum")
    value.backward()
    assert (value.item(), x.grad is not None and x.grad.tolist()) == (4000.0, [[1.0, -3.0]])


def test_a_class_of_probability_0_costs_nothing_however_improbable_it_is() -> None:
    log_q = cr.tensor([[0.0, -np.inf]], requires_grad=True)
    value = losses.kl_divergence(log_q, [[1.0, 0.0]])
    value.backward()
    assert value.item() == 0
    assert log_q.grad is not None
    assert log_q.grad.tolist() == [[-1.0, 0.0]]


def test_integer_and_boolean_targets_are_numbers() -> None:
    x = cr.tensor([[0.5], [2.0]])
    assert losses.sigmoid_cross_entropy(x, np.array([[True], [False]])).item() == losses.sigmoid_cross_entropy(x, [[1.0], [0.0]]).item()
    assert losses.mean_squared_error(x, np.array([[1], [2]])).item() == 0.125


OF_ONE_SHAPE = (
    losses.mean_squared_error, losses.mean_absolute_error, losses.huber, losses.hinge, losses.sigmoid_cross_entropy, losses.kl_divergence,
)  # fmt: skip
OF_CLASSES = (losses.softmax_cross_entropy, losses.negative_log_likelihood, losses.multiclass_hinge, losses.squared_hinge)


@pytest.mark.parametrize("loss", OF_ONE_SHAPE, ids=lambda loss: loss.__name__)
def test_shapes_that_would_broadcast_by_accident_are_refused_with_the_mend(loss: Callable[..., cr.Tensor]) -> None:
    with pytest.raises(ShapeError) as refused:
        loss(np.ones((5, 1), np.float32), np.ones(5, np.float32))
    for part in (loss.__name__, "float32(5, 1)", "float32(5)", "outputs[..., 0]"):
        assert part in str(refused.value)
    with pytest.raises(ShapeError, match=r"targets\[\.\.\., 0\]"):
        loss(np.ones(5, np.float32), np.ones((5, 1), np.float32))
    with pytest.raises(ShapeError, match="one target for each output"):
        loss(np.ones((5, 2), np.float32), np.ones(2, np.float32))


@pytest.mark.parametrize("loss", OF_CLASSES, ids=lambda loss: loss.__name__)
def test_labels_that_are_no_class_numbers_are_refused(loss: Callable[..., cr.Tensor]) -> None:
    outputs = np.ones((2, 3), np.float32)
    for labels in ([0, 3], [-1, 1]):
        with pytest.raises(ArgumentError, match="for 3 classes"):
            loss(outputs, np.array(labels))
        with pytest.raises((ArgumentError, AxisError)):
            cr.compile(lambda x, y: loss(x, y))(cr.tensor(outputs), cr.tensor(labels))
    with pytest.raises(ShapeError, match="do not fit"):
        loss(outputs, np.array([[0], [1]]))
    with pytest.raises((DtypeError, ShapeError)):
        loss(outputs, np.array([0.0, 1.0]))
    for dtype in (np.uint8, np.int8):
        assert loss(np.zeros((2, 300), np.float32), np.array([1, 100], dtype)).shape == ()


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (lambda: losses.mean_squared_error(np.ones(2), np.ones(2), reduction="average"), ArgumentError, "no reduction 'average'"),
        (lambda: losses.huber(np.ones(2), np.ones(2), delta=0.0), ArgumentError, "delta=0.0"),
        (lambda: losses.mean_squared_error(np.ones(2, int), np.ones(2)), DtypeError, "not floating-point"),
        (lambda: losses.sigmoid_cross_entropy(np.ones(2), np.ones(2), label_smoothing=2.0), ArgumentError, "label_smoothing=2.0"),
        (lambda: losses.sigmoid_cross_entropy(np.ones(2), np.ones(2), pos_weight=np.ones((3, 2))), ShapeError, "pos_weight"),
        (lambda: losses.softmax_cross_entropy(LOGITS, LABELS, class_weights=[1.0, 2.0]), ShapeError, "each of the 4 classes"),
        (lambda: losses.softmax_cross_entropy(LOGITS, LABELS, class_weights=WEIGHTS, label_smoothing=-1.0), ArgumentError, "label_smoothing"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Callable[[], object], error: type[ChainruleError], says: str) -> None:
    with pytest.raises(error, match=says):
        wrong()


# Regularizers.

W = np.array([[3.0, -4.0], [0.0, 0.5]])
PRICES: dict[str, tuple[regularizers.Regularizer, float, np.ndarray]] = {
    "L1": (regularizers.L1(0.1), 0.75, 0.1 * np.sign(W)),
    "L2": (regularizers.L2(0.5), 0.5 * 25.25, W),
    "L1L2": (regularizers.L1L2(0.1, 0.5), 0.75 + 0.5 * 25.25, 0.1 * np.sign(W) + W),
}


@pytest.mark.parametrize("name", PRICES)
def test_a_regularizer_has_the_price_and_slope_of_its_formula(name: str) -> None:
    regularizer, price, slope = PRICES[name]
    w = cr.tensor(W, requires_grad=True)
    regularizer(w).backward()
    np.testing.assert_allclose(regularizer(w).item(), price, rtol=1e-12)
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), slope, rtol=1e-12)


def test_regularizers_have_names_and_refuse_negative_prices() -> None:
    assert regularizers.fetch("l2") == regularizers.L2(0.01)
    assert regularizers.fetch(None) is None
    own = regularizers.L1(2.0)
    assert regularizers.fetch(own) is own
    with pytest.raises(ArgumentError, match="did you mean 'l1'"):
        regularizers.fetch("l1_")
    for wrong in (lambda: regularizers.L1(-1.0), lambda: regularizers.L2(float("nan")), lambda: regularizers.L1L2(0.1, -0.1)):
        with pytest.raises(ArgumentError, match="at least 0"):
            wrong()


def test_an_l2_penalty_is_weight_decay_of_twice_its_factor() -> None:
    x, target = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 2))
    cr.manual_seed(0)
    priced = nn.Dense(2, kernel_regularizer=regularizers.L2(0.05)).initialize((1, 3))
    plain = nn.Dense(2).initialize((1, 3))
    plain.load_state_dict(priced.state_dict())
    optimizers = (
        cr.optim.SGD(priced.parameters(), lr=0.1),
        cr.optim.SGD([{"params": [plain.kernel], "weight_decay": 0.1}, {"params": [plain.bias]}], lr=0.1),
    )
    for _ in range(5):
        for model, optimizer in zip((priced, plain), optimizers, strict=True):
            optimizer.zero_grad()
            (losses.mean_squared_error(model(x.astype(np.float32)), target) + model.penalty()).backward()
            optimizer.step()
    np.testing.assert_allclose(priced.kernel.detach().numpy(), plain.kernel.detach().numpy(), rtol=1e-5)


# Metrics.

SCORES = cr.tensor([[0.1, 0.9, 0.3, 0.2, 0.0, -1.0], [0.8, 0.2, 0.7, 0.6, 0.5, 0.4], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])


def test_accuracy_counts_the_largest_score_of_class_numbers_and_probabilities() -> None:
    assert metrics.accuracy(SCORES, cr.tensor([1, 2, 0])).item() == pytest.approx(2 / 3)
    assert metrics.accuracy(SCORES, cr.one_hot(cr.tensor([1, 2, 0]), 6)).item() == pytest.approx(2 / 3)


def test_top_k_accuracy_counts_the_labels_among_the_k_largest_scores() -> None:
    labels = cr.tensor([1, 2, 0])
    for k, share in ((1, 2 / 3), (2, 1.0), (6, 1.0)):
        assert metrics.top_k_accuracy(SCORES, labels, k=k).item() == pytest.approx(share)
    # Equal scores come in the order of the classes, as for argmax; what is not a number is no hit.
    assert metrics.top_k_accuracy(SCORES, cr.tensor([5, 1, 5]), k=5).item() == 0
    assert metrics.top_k_accuracy(cr.tensor([[np.nan, 1.0, 2.0]]), cr.tensor([0]), k=2).item() == 0
    assert metrics.fetch("top_5_accuracy")(SCORES, cr.tensor([1, 1, 4])).item() == pytest.approx(2 / 3)
    with pytest.raises(ArgumentError, match="k=0"):
        metrics.top_k_accuracy(SCORES, labels, k=0)


def test_binary_accuracy_is_of_logits_and_knows_both_ways_to_write_targets() -> None:
    logits = cr.tensor([1.0, -1.0, 2.0, -3.0])
    assert metrics.binary_accuracy(logits, cr.tensor([1.0, 0.0, 0.0, 0.0])).item() == 0.75
    assert metrics.binary_accuracy(logits, cr.tensor([1, -1, -1, -1])).item() == 0.75
    assert metrics.binary_accuracy(logits, cr.tensor([True, False, False, False])).item() == 0.75
    with pytest.raises(ShapeError, match="differ in shape"):
        metrics.binary_accuracy(cr.tensor([[1.0], [2.0]]), cr.tensor([1.0, 0.0]))


def test_bits_are_cross_entropies_to_base_2() -> None:
    assert metrics.bits(cr.zeros((3, 8)), cr.tensor([0, 4, 7])).item() == pytest.approx(3.0)
    assert metrics.binary_bits(cr.zeros((3, 8)), cr.zeros((3, 8))).item() == pytest.approx(1.0)


def test_mean_absolute_error_is_that_of_the_loss() -> None:
    assert metrics.fetch("mean_absolute_error")(cr.tensor([1.0, 4.0]), cr.tensor([1.0, 2.0])).item() == 1.0


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_the_metrics_of_every_loss_take_its_outputs_and_targets(loss: str) -> None:
    for case in (case for case in CASES.values() if case.loss.__name__ == loss):
        for name in metrics.OF_LOSS[loss]:
            value = metrics.fetch(name)(cr.tensor(case.outputs), cr.tensor(case.targets))
            assert value.shape == ()
            assert np.isfinite(value.item())


def test_a_metric_by_a_wrong_name_is_refused() -> None:
    with pytest.raises(ArgumentError, match="did you mean 'accuracy'"):
        metrics.fetch("acuracy")
