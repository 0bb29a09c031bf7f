"""Optimizers: the steps of their papers, PyTorch's numbers, and a state to go on from."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, optim
from chainrule.core.errors import ArgumentError, TraceError

Make = Callable[[Any], optim.Optimizer]

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd with weight decay": ("SGD", {"lr": 0.1, "weight_decay": 0.05}),
    "sgd with momentum": ("SGD", {"lr": 0.05, "momentum": 0.9}),
    "sgd with nesterov": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "adam": ("Adam", {"lr": 0.03}),
    "adam with options": ("Adam", {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}),
    "adam with amsgrad": ("Adam", {"lr": 0.03, "betas": (0.8, 0.7), "amsgrad": True}),
    "adamw": ("AdamW", {"lr": 0.03, "weight_decay": 0.2}),
    "adamw with amsgrad": ("AdamW", {"lr": 0.03, "amsgrad": True}),
    "adagrad": ("Adagrad", {"lr": 0.1}),
    "adagrad with options": ("Adagrad", {"lr": 0.1, "eps": 1e-3, "weight_decay": 0.1, "initial_accumulator": 0.5}),
    "rmsprop": ("RMSProp", {"lr": 0.01}),
    "rmsprop with momentum": ("RMSProp", {"lr": 0.01, "alpha": 0.9, "momentum": 0.8, "weight_decay": 0.1}),
    "rmsprop, centered": ("RMSProp", {"lr": 0.01, "alpha": 0.8, "centered": True, "eps": 1e-3}),
    "rmsprop, centered with momentum": ("RMSProp", {"lr": 0.01, "alpha": 0.9, "centered": True, "eps": 1e-3, "momentum": 0.5}),
    "lion": ("Lion", {"lr": 0.01}),
    "lion with weight decay": ("Lion", {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.3}),
}
THEIRS = {"initial_accumulator": "initial_accumulator_value", "RMSProp": "RMSprop"}
"""PyTorch's names, where they are others."""


def made(case: str) -> Make:
    name, options = CASES[case]
    return lambda parameters: getattr(optim, name)(parameters, **options)


def start() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(4, 3)), rng.normal(size=3)]


def run(make: Make, steps: int, dtype: str = "float64") -> list[np.ndarray]:
    w, b = (cr.tensor(value, dtype=dtype, requires_grad=True) for value in start())
    x = cr.tensor(np.random.default_rng(1).normal(size=(5, 4)), dtype=dtype)
    optimizer = make([w, b])
    for _ in range(steps):
        optimizer.zero_grad()
        (cr.tanh(x @ w + b) ** 2).sum().backward()
        optimizer.step()
    return [w.detach().numpy(), b.detach().numpy()]


STEPS = 25
IN_PYTORCH = [case for case, (name, _) in CASES.items() if name != "Lion"]


def pytorchs(torch: Any, case: str, parameters: Any) -> Any:
    """PyTorch's optimizer of the same name and options."""
    name, options = CASES[case]
    return getattr(torch.optim, THEIRS.get(name, name))(parameters, **{THEIRS.get(option, option): value for option, value in options.items()})


@pytest.mark.parametrize("case", IN_PYTORCH)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_on_the_same_gradients_the_numbers_are_pytorchs(case: str, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch: pip install torch==2.13.0")
    theirs = [torch.tensor(value.astype(dtype), requires_grad=True) for value in start()]
    ours = [cr.tensor(value, dtype=dtype, requires_grad=True) for value in start()]
    optimizer, mine = pytorchs(torch, case, theirs), made(case)(ours)
    rng = np.random.default_rng(2)
    for _ in range(STEPS):
        for one, other in zip(ours, theirs, strict=True):
            gradient = rng.normal(size=one.shape).astype(dtype)
            one.grad, other.grad = cr.tensor(gradient), torch.tensor(gradient)
        mine.step()
        optimizer.step()
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one.detach().numpy(), other.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("case", IN_PYTORCH)
def test_with_groups_and_a_schedule_the_numbers_are_pytorchs(case: str, compiled: bool) -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch: pip install torch==2.13.0")
    x = np.random.default_rng(1).normal(size=(5, 4))
    theirs = [torch.tensor(value, requires_grad=True) for value in start()]
    optimizer = pytorchs(torch, case, [{"params": [theirs[0]]}, {"params": [theirs[1]], "lr": 0.02, "weight_decay": 0.3}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=0.001)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (torch.tanh(torch.tensor(x) @ theirs[0] + theirs[1]) ** 2).sum().backward()
        optimizer.step()
        schedule.step()

    w, b = ours = [cr.tensor(value, requires_grad=True) for value in start()]
    mine = made(case)([{"params": [w]}, {"params": [b], "lr": 0.02, "weight_decay": 0.3}])
    my_schedule = optim.schedules.Cosine(mine, steps=40, minimum=0.001)

    def step(x: cr.Tensor) -> None:
        mine.zero_grad()
        (cr.tanh(x @ w + b) ** 2).sum().backward()
        mine.step()

    fast = cr.compile(step)
    for _ in range(STEPS):
        (fast if compiled else step)(cr.tensor(x))
        my_schedule.step()
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.detach().numpy(), other.detach().numpy(), rtol=1e-9, atol=1e-9)
    assert len(fast.stats().compilations) == compiled


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_compiled_steps_are_the_eager_steps(case: str, dtype: str) -> None:
    def compiled(parameters: list[cr.Tensor]) -> optim.Optimizer:
        optimizer = made(case)(parameters)
        optimizer.step = cr.compile(optimizer.step)
        return optimizer

    tolerance = 1e-12 if dtype == "float64" else 1e-6
    for ours, expected in zip(run(compiled, 10, dtype), run(made(case), 10, dtype), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", ["lion", "lion with weight decay"])
def test_lion_follows_algorithm_2(case: str) -> None:
    options = CASES[case][1]
    beta1, beta2 = options.get("betas", (0.9, 0.99))
    expected, mean = np.array([0.5, -1.0, 2.0]), np.zeros(3)
    w = cr.tensor(expected, requires_grad=True)
    optimizer = made(case)([w])
    for gradient in np.random.default_rng(7).normal(size=(100, 3)):
        w.grad = cr.tensor(gradient)
        optimizer.step()
        direction = np.sign(beta1 * mean + (1 - beta1) * gradient)
        expected = expected - options["lr"] * (direction + options.get("weight_decay", 0.0) * expected)
        mean = beta2 * mean + (1 - beta2) * gradient
    np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_momentum_can_come_and_go(compiled: bool) -> None:
    w = cr.tensor(np.array([1.0]), requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        (w * 2).sum().backward()
        optimizer.step()

    taken = cr.compile(step) if compiled else step
    taken()
    optimizer.groups[0]["momentum"] = 0.5
    taken()
    taken()
    np.testing.assert_allclose(w.detach().numpy(), [1 - 0.2 - 0.2 - 0.3])
    assert list(optimizer.state_dict()["state"]["0"]) == ["velocity"]
    optimizer.groups[0]["momentum"] = 0.0
    taken()
    np.testing.assert_allclose(w.detach().numpy(), [0.1])
    assert optimizer.state_dict()["state"]["0"] == {}


def test_what_is_remembered_stays_when_another_option_changes() -> None:
    w = cr.tensor(np.array([1.0]), requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1, momentum=0.5)
    for weight_decay in (0.0, 0.25):
        optimizer.groups[0]["weight_decay"] = weight_decay
        w.grad = cr.tensor(np.array([2.0]))
        optimizer.step()
    np.testing.assert_allclose(w.detach().numpy(), [0.8 - 0.1 * (0.5 * 2 + 2 + 0.25 * 0.8)])


def test_a_state_whose_options_have_changed_since_can_be_restored() -> None:
    def stepped(momentum: float) -> optim.Optimizer:
        w = cr.tensor([1.0], requires_grad=True)
        optimizer = optim.SGD([w], lr=0.1, momentum=momentum)
        (w * 2).sum().backward()
        optimizer.step()
        return optimizer

    for before, after in ((0.0, 0.9), (0.9, 0.0)):
        changed = stepped(before)
        changed.groups[0]["momentum"] = after
        fresh = stepped(before)
        fresh.load_state_dict(changed.state_dict())
        assert fresh.groups[0]["momentum"] == after
        fresh.step()


def test_a_state_with_unknown_options_is_refused_whole() -> None:
    optimizer = optim.SGD([cr.tensor([1.0], requires_grad=True)], lr=0.1)
    with pytest.raises(ArgumentError, match="no option 'rho'"):
        optimizer.load_state_dict({"state": {}, "groups": [{"lr": 0.5, "rho": 1.0}]})
    assert optimizer.lr == 0.1


def test_a_closure_is_called_before_the_step() -> None:
    w = cr.tensor(1.0, requires_grad=True)
    optimizer = optim.SGD([w], lr=0.25)

    def closure() -> cr.Tensor:
        optimizer.zero_grad()
        loss = w * w
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert loss is not None
    assert (loss.item(), w.item(), optimizer.step()) == (1.0, 0.5, None)


def test_sgd_follows_its_formula() -> None:
    w = cr.tensor([1.0, -2.0], requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1, momentum=0.5)
    velocity, expected = np.zeros(2), np.array([1.0, -2.0])
    for _ in range(3):
        optimizer.zero_grad()
        (w * w).sum().backward()
        optimizer.step()
        velocity = 0.5 * velocity + 2 * expected
        expected = expected - 0.1 * velocity
    np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-6)


def test_adam_follows_algorithm_1() -> None:
    w = cr.tensor(np.array([1.0, -2.0]), requires_grad=True)
    optimizer = optim.Adam([w], lr=0.1)
    mean, square, expected = np.zeros(2), np.zeros(2), np.array([1.0, -2.0])
    for step in range(1, 6):
        optimizer.zero_grad()
        (w**3).sum().backward()
        optimizer.step()
        gradient = 3 * expected**2
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        expected = expected - 0.1 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_a_restored_optimizer_goes_on_bit_for_bit(case: str) -> None:
    def stopped(parameters: list[cr.Tensor]) -> optim.Optimizer:
        optimizer = made(case)(parameters)
        real, count = optimizer.step, 0

        def step(closure: Any = None) -> None:
            nonlocal count
            real(closure)
            count += 1
            if count == 3:
                state = optimizer.state_dict()
                groups = json.loads(json.dumps(state["groups"]))
                arrays = {place: {name: np.array(value) for name, value in slots.items()} for place, slots in state["state"].items()}
                optimizer._slots.clear()
                optimizer.lr = 123.0
                optimizer.load_state_dict({"state": arrays, "groups": groups})

        optimizer.step = step
        return optimizer

    for ours, expected in zip(run(stopped, 7, "float32"), run(made(case), 7, "float32"), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_parameters_keep_their_identity_and_what_held_their_values_does_not_change() -> None:
    w = cr.tensor([1.0], requires_grad=True)
    before = w.detach()
    optimizer = optim.SGD([w], lr=0.5)
    (w * 1).sum().backward()
    optimizer.step()
    assert (w.item(), before.item()) == (0.5, 1)
    assert w.requires_grad
    assert w.is_leaf


def test_parameters_without_a_gradient_stay() -> None:
    used, unused = cr.tensor(1.0, requires_grad=True), cr.tensor(1.0, requires_grad=True)
    optimizer = optim.Adam([used, unused], lr=0.1, weight_decay=0.1)
    (used * 2).backward()
    optimizer.step()
    assert unused.item() == 1
    assert list(optimizer.state_dict()["state"]) == ["0"]


def test_zero_grad_forgets() -> None:
    w = cr.tensor(1.0, requires_grad=True)
    optimizer = optim.SGD([w])
    (w * 2).backward()
    optimizer.zero_grad()
    assert w.grad is None


def test_an_optimizer_can_be_made_before_the_parameters() -> None:
    model = nn.Sequential([nn.Dense(2), nn.Dense(1)])
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    model(np.ones((3, 4))).sum().backward()
    before = model.state_dict()
    optimizer.step()
    assert all(not np.array_equal(value.numpy(), before[name].numpy()) for name, value in model.state_dict().items())


def test_a_layer_that_joins_later_is_stepped_too() -> None:
    model = nn.Sequential([nn.Dense(2)])
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.layers.append(nn.Dense(1))
    model(np.ones((3, 4))).sum().backward()
    optimizer.step()
    assert len(optimizer.state_dict()["state"]) == 4


def test_groups_have_options_of_their_own() -> None:
    a, b = cr.tensor(1.0, requires_grad=True), cr.tensor(1.0, requires_grad=True)
    optimizer = optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=0.1)
    (a + b).backward()
    optimizer.step()
    assert (a.item(), b.item()) == pytest.approx((0.9, 0.5))
    optimizer.groups[1]["lr"] = 0.25
    assert [group["lr"] for group in optimizer.groups] == [0.1, 0.25]
    optimizer.lr = 0.2
    assert [group["lr"] for group in optimizer.groups] == [0.2, 0.2]


def test_the_learning_rate_is_a_tensor_that_keeps_its_identity() -> None:
    optimizer = optim.SGD([cr.tensor(1.0, requires_grad=True)], lr=0.1)
    rate = optimizer.groups[0].rate
    optimizer.lr = 0.05
    assert optimizer.groups[0].rate is rate
    assert rate.item() == 0.05


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda w: optim.SGD([w], lr=-1), "lr=-1"),
        (lambda w: optim.SGD([w], lr=float("nan")), "lr=nan"),
        (lambda w: optim.SGD([w], momentum=1.0), "momentum=1.0"),
        (lambda w: optim.SGD([w], nesterov=True), "nesterov without momentum"),
        (lambda w: optim.Adam([w], betas=(0.9, 1.0)), "betas=1.0"),
        (lambda w: optim.Adam([w], eps=-1e-8), "eps=-1e-08"),
        (lambda w: optim.AdamW([w], weight_decay=-0.1), "weight_decay=-0.1"),
        (lambda w: optim.SGD([w, w]), "twice"),
        (lambda w: optim.SGD([]), "no parameters"),
        (lambda w: optim.SGD([w * 2]), "computed tensor"),
        (lambda w: optim.SGD([cr.tensor(1.0)]), "require a gradient"),
        (lambda w: optim.SGD([{"params": [w], "rate": 1}]), "no option 'rate'"),
        (lambda w: optim.SGD([{"lr": 1}]), "without 'params'"),
        (lambda w: optim.Adagrad([w], initial_accumulator=-1), "initial_accumulator=-1"),
        (lambda w: optim.RMSProp([w], alpha=1.0), "alpha=1.0"),
        (lambda w: optim.Lion([w], betas=(1.0, 0.9)), "betas=1.0"),
        (lambda w: optim.LBFGS([w], line_search_fn="armijo"), "no line search 'armijo'"),
        (lambda w: optim.LBFGS([w], max_iter=0), "max_iter=0"),
        (lambda w: optim.LBFGS([{"params": [w]}, {"params": [cr.tensor(1.0, requires_grad=True)]}]), "2 groups"),  # pyright: ignore[reportArgumentType]
        (lambda w: optim.LBFGS([w]).step(), "without a closure"),
        (lambda w: optim.clip_by_norm([w], 0.0), "limit=0.0"),
        (lambda w: optim.clip_by_value([w], float("inf")), "limit=inf"),
        (lambda w: optim.get("adma"), "did you mean 'adam'"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Callable[[cr.Tensor], object], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        wrong(cr.tensor(1.0, requires_grad=True))


def test_a_state_of_another_model_is_refused_whole() -> None:
    a, b = cr.tensor([1.0], requires_grad=True), cr.tensor([1.0, 2.0], requires_grad=True)
    optimizer = optim.Adam([a])
    (a * 2).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    with pytest.raises(ArgumentError, match="needs the state"):
        optim.Adam([b]).load_state_dict(state)
    with pytest.raises(ArgumentError, match="has 1 groups"):
        optim.Adam([{"params": [a]}, {"params": [b]}]).load_state_dict(state)
    with pytest.raises(ArgumentError, match="needs the state"):
        optim.SGD([a], momentum=0.9).load_state_dict({**state, "groups": optim.SGD([a]).state_dict()["groups"]})


def rosenbrock(where: Any) -> Any:
    return (1 - where[0]) ** 2 + 100 * (where[1] - where[0] ** 2) ** 2


def regression(library: Any) -> Callable[[Any], Any]:
    rng = np.random.default_rng(3)
    x, y = (library.tensor(value) for value in (rng.normal(size=(20, 5)), rng.normal(size=20)))
    return lambda w: ((library.tanh(x @ w) - y) ** 2).sum()


def waves(library: Any) -> Callable[[Any], Any]:
    """Many minima, which a line search meets on its way."""
    return lambda w: (library.sin(4 * w) + 0.05 * w * w).sum()


LINE_SEARCHES = [
    {"lr": 1e-3, "max_iter": 5},
    {"lr": 0.1, "max_iter": 6, "history_size": 3},
    {"line_search_fn": "strong_wolfe"},
    {"line_search_fn": "strong_wolfe", "max_iter": 4, "history_size": 2},
    {"line_search_fn": "strong_wolfe", "lr": 0.05, "max_eval": 7},
    {"line_search_fn": "strong_wolfe", "lr": 50.0},
    {"line_search_fn": "strong_wolfe", "lr": 0.01, "tolerance_change": 0.05},
    {"line_search_fn": "strong_wolfe", "lr": 5.0, "tolerance_change": 0.5},
]


@pytest.mark.parametrize("options", LINE_SEARCHES, ids=str)
@pytest.mark.parametrize("problem", ["rosenbrock", "regression", "waves"])
def test_lbfgs_has_pytorchs_iterates(problem: str, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch: pip install torch==2.13.0")
    first = np.array([-1.2, 1.0]) if problem == "rosenbrock" else np.random.default_rng(4).normal(size=5)
    theirs, ours = torch.tensor(first, requires_grad=True), cr.tensor(first, requires_grad=True)
    evaluations = {"theirs": 0, "ours": 0}

    def closure_of(who: str, optimizer: Any, f: Callable[[Any], Any], w: Any) -> Callable[[], Any]:
        def closure() -> Any:
            evaluations[who] += 1
            optimizer.zero_grad()
            loss = f(w)
            loss.backward()
            return loss

        return closure

    methods = torch.optim.LBFGS([theirs], **options), optim.LBFGS([ours], **options)
    functions = (rosenbrock, rosenbrock) if problem == "rosenbrock" else [{"regression": regression, "waves": waves}[problem](x) for x in (torch, cr)]
    closures = [closure_of(*each) for each in zip(("theirs", "ours"), methods, functions, (theirs, ours), strict=True)]
    for _ in range(6):
        expected, got = methods[0].step(closures[0]), methods[1].step(closures[1])
        assert got is not None
        np.testing.assert_allclose(got.item(), expected.item(), rtol=1e-7, atol=1e-14)
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-7, atol=1e-9)
        assert evaluations["ours"] == evaluations["theirs"]


def quartic(method: Callable[[list[cr.Tensor]], optim.LBFGS], dtype: str = "float64") -> tuple[list[cr.Tensor], optim.LBFGS, Callable[[], cr.Tensor]]:
    rng = np.random.default_rng(5)
    a = cr.tensor(rng.normal(size=(8, 6)), dtype=dtype)
    parameters = [cr.tensor(rng.normal(size=(2, 2)), dtype=dtype, requires_grad=True), cr.tensor(rng.normal(size=2), dtype=dtype, requires_grad=True)]
    optimizer = method(parameters)

    def closure() -> cr.Tensor:
        optimizer.zero_grad()
        w = cr.concat([cr.reshape(parameters[0], (4,)), parameters[1]])
        loss = cr.sum((a @ w - 1) ** 2) + cr.sum(w**4)
        loss.backward()
        return loss

    return parameters, optimizer, closure


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_a_restored_lbfgs_goes_on_bit_for_bit(search: str | None, dtype: str) -> None:
    results: list[list[bytes]] = []
    for stopped in (False, True):
        parameters, optimizer, closure = quartic(lambda p: optim.LBFGS(p, lr=0.05, max_iter=3, history_size=4, line_search_fn=search), dtype)
        for number in range(6):
            if stopped and number in (0, 3):
                state = optimizer.state_dict()
                arrays = {place: {name: np.array(value) for name, value in held.items()} for place, held in state["state"].items()}
                optimizer._memory = optim.LBFGS(parameters)._memory
                optimizer.load_state_dict({"state": arrays, "groups": json.loads(json.dumps(state["groups"]))})
            optimizer.step(closure)
        assert all(parameter.dtype == dtype for parameter in parameters)
        results.append([parameter.detach().numpy().tobytes() for parameter in parameters])
    assert results[0] == results[1]


def test_a_state_of_other_parameters_is_no_state_of_lbfgs() -> None:
    _, optimizer, closure = quartic(optim.LBFGS)
    optimizer.step(closure)
    with pytest.raises(ArgumentError, match="over 3 numbers"):
        optim.LBFGS([cr.tensor([1.0, 2.0, 3.0], requires_grad=True)]).load_state_dict(optimizer.state_dict())


def test_the_closure_of_lbfgs_can_be_compiled() -> None:
    results: list[list[np.ndarray]] = []
    for compiled in (False, True):
        parameters, optimizer, closure = quartic(lambda p: optim.LBFGS(p, line_search_fn="strong_wolfe", max_iter=5))
        taken = cr.compile(closure) if compiled else closure
        for _ in range(4):
            optimizer.step(taken)
        results.append([parameter.detach().numpy() for parameter in parameters])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_lbfgs_inside_a_compiled_function_says_to_compile_the_closure() -> None:
    _, optimizer, closure = quartic(optim.LBFGS)
    with pytest.raises(TraceError, match="compile the closure"):
        cr.compile(lambda: optimizer.step(closure))()


def test_lbfgs_with_weight_decay_finds_the_penalised_minimum() -> None:
    w = cr.tensor(np.zeros(2), requires_grad=True)
    optimizer = optim.LBFGS([w], weight_decay=3.0, line_search_fn="strong_wolfe")

    def closure() -> cr.Tensor:
        optimizer.zero_grad()
        loss = cr.sum((w - np.array([4.0, 8.0])) ** 2) / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    np.testing.assert_allclose(w.detach().numpy(), [1.0, 2.0], rtol=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_leaves_lbfgs_and_the_parameters_as_they_were(bad: float) -> None:
    w = cr.tensor(np.array([1.0]), requires_grad=True)
    optimizer = optim.LBFGS([w])

    def closure() -> cr.Tensor:
        optimizer.zero_grad()
        loss = cr.sum(w * bad)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert w.tolist() == [1.0]
    assert "direction" not in optimizer.state_dict()["state"]["0"]


def with_gradients(scale: float = 1.0) -> list[cr.Tensor]:
    rng = np.random.default_rng(6)
    parameters = [cr.tensor(rng.normal(size=shape), requires_grad=True) for shape in ((3, 2), (4,))]
    for parameter in parameters:
        parameter.grad = cr.tensor(rng.normal(size=parameter.shape) * scale)
    return [*parameters, cr.tensor([1.0], requires_grad=True)]


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_clipping_by_norm_is_pytorchs(limit: float) -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch: pip install torch==2.13.0")
    ours = with_gradients()
    theirs = [torch.tensor(p.detach().numpy().copy(), requires_grad=True) for p in ours]
    for one, other in zip(ours, theirs, strict=True):
        other.grad = None if one.grad is None else torch.tensor(one.grad.numpy().copy())
    expected = torch.nn.utils.clip_grad_norm_(theirs, limit)
    norm = optim.clip_by_norm(ours, limit)
    np.testing.assert_allclose(norm.item(), expected.item(), rtol=1e-12)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            np.testing.assert_allclose(one.grad.numpy(), other.grad.numpy(), rtol=1e-12)


def test_clipping_by_value_cuts_each_element() -> None:
    parameters = with_gradients()
    expected = [p.grad.numpy().clip(-0.5, 0.5) for p in parameters if p.grad is not None]
    optim.clip_by_value(parameters, 0.5)
    assert parameters[-1].grad is None
    for parameter, wanted in zip(parameters, expected, strict=False):
        assert parameter.grad is not None
        np.testing.assert_array_equal(parameter.grad.numpy(), wanted)


def test_a_norm_that_is_not_finite_is_reported() -> None:
    for bad in (np.inf, np.nan):
        w = cr.tensor([1.0, 2.0], requires_grad=True)
        w.grad = cr.tensor([1.0, bad])
        with np.errstate(invalid="ignore"):
            assert not np.isfinite(optim.clip_by_norm([w], 1.0).item())
    assert optim.clip_by_norm([cr.tensor([1.0], requires_grad=True)], 1.0).item() == 0


@pytest.mark.parametrize("clipped", [lambda p: optim.clip_by_norm(p, 0.5), lambda p: optim.clip_by_value(p, 0.1)], ids=["norm", "value"])
def test_clipping_is_part_of_a_compiled_step(clipped: Callable[[Any], Any]) -> None:
    results: list[np.ndarray] = []
    for compiled in (False, True):
        w = cr.tensor(np.array([3.0, -2.0, 0.1]), requires_grad=True)
        optimizer = optim.SGD([w], lr=0.1, momentum=0.9)

        def step(x: cr.Tensor, w: cr.Tensor = w, optimizer: optim.Optimizer = optimizer) -> Any:
            optimizer.zero_grad()
            ((w * x) ** 2).sum().backward()
            norm = clipped([w])
            optimizer.step()
            return norm

        # What it works on are defaults, so bound here.
        taken = cr.compile(lambda x, step=step: step(x)) if compiled else step
        for i in range(5):
            taken(cr.tensor(np.array([1.0, 0.5 * i, 2.0])))
        results.append(w.detach().numpy())
    np.testing.assert_allclose(results[0], results[1], rtol=1e-12)
