"""The Wasserstein GAN with gradient penalty: derivatives of derivatives by hand, beside PyTorch's, compiled, and at work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chainrule as cr
from chainrule.core.errors import ShapeError
from chainrule.models import WassersteinGAN, gradient_penalty, wgan_gp

RANDOM = np.random.default_rng(0)
REAL, FAKE = RANDOM.normal(size=(2, 6, 3))


def small() -> WassersteinGAN:
    cr.manual_seed(1)
    return WassersteinGAN(2, 3, (5, 4), dtype="float64").initialize((1, 2))


# The penalty


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3).filter(lambda w: np.linalg.norm(w) > 1e-2))
def test_the_slope_of_a_linear_critic_is_the_length_of_its_weights(w: list[float]) -> None:
    weights, length = cr.tensor(w, dtype=cr.float64, requires_grad=True), np.linalg.norm(w)
    penalty = gradient_penalty(lambda x: x @ weights + 7.0, REAL, FAKE)
    penalty.backward()
    np.testing.assert_allclose(penalty.item(), (length - 1) ** 2, atol=1e-9)
    np.testing.assert_allclose(weights.grad.numpy(), 2 * (length - 1) * np.array(w) / length, atol=1e-9)


def test_a_slope_of_one_costs_nothing() -> None:
    assert gradient_penalty(lambda x: x[:, 0], REAL, FAKE).item() < 1e-20


def test_slopes_are_measured_between_real_and_generated_points() -> None:
    seen: list[np.ndarray] = []

    def critic(x: cr.Tensor) -> cr.Tensor:
        seen.append(x.detach().numpy())
        return cr.sum(x, axis=1)

    cr.manual_seed(0)
    real, fake = np.zeros((4000, 2)), np.full((4000, 2), 8.0)
    gradient_penalty(critic, real, fake)
    (points,) = seen
    np.testing.assert_array_equal(points[:, 0], points[:, 1])
    assert points.min() >= 0
    assert points.max() <= 8
    np.testing.assert_allclose(np.histogram(points[:, 0], bins=4, range=(0, 8))[0], 1000, atol=100)


def test_images_are_points_too() -> None:
    penalty = gradient_penalty(lambda x: cr.sum(x, axis=(1, 2, 3)), RANDOM.normal(size=(3, 4, 4, 1)), np.zeros((3, 4, 4, 1)))
    np.testing.assert_allclose(penalty.item(), (4 - 1) ** 2)


def test_a_critic_that_says_nothing_has_a_finite_gradient() -> None:
    weights = cr.zeros((3,), dtype=cr.float64).requires_grad_()
    penalty = gradient_penalty(lambda x: cr.relu(x @ weights), REAL, FAKE)
    penalty.backward()
    np.testing.assert_allclose(penalty.item(), 1, atol=1e-5)
    assert np.isfinite(weights.grad.numpy()).all()


def test_its_gradient_is_that_of_finite_differences() -> None:
    key = cr.tensor(np.array([1, 2], np.uint64))

    def penalty(real: cr.Tensor, fake: cr.Tensor, w: cr.Tensor, v: cr.Tensor) -> cr.Tensor:
        return gradient_penalty(lambda x: cr.tanh(x @ w) @ v, real, fake, key=key)

    assert cr.gradcheck(penalty, (REAL, FAKE, RANDOM.normal(size=(3, 4)), RANDOM.normal(size=4)))


def test_its_gradient_is_pytorchs() -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch: pip install torch==2.13.0")
    key = cr.tensor(np.array([3, 4], np.uint64))
    model = small()
    penalty = gradient_penalty(model.critic, REAL, FAKE, key=key)
    penalty.backward()

    theirs = [torch.tensor(p.detach().numpy(), requires_grad=True) for p in model.critic.parameters()]
    t = torch.tensor(cr.random.uniform((len(REAL), 1), dtype="float64", key=key).numpy())
    points = (t * torch.tensor(REAL) + (1 - t) * torch.tensor(FAKE)).requires_grad_()
    scores = points
    for place in range(0, len(theirs), 2):
        scores = scores @ theirs[place] + theirs[place + 1]
        scores = scores.relu() if place < len(theirs) - 2 else scores
    (slopes,) = torch.autograd.grad(scores.sum(), points, create_graph=True)
    expected = ((slopes.norm(dim=1) - 1) ** 2).mean()
    expected.backward()
    np.testing.assert_allclose(penalty.item(), expected.item(), rtol=1e-9)
    # The slope of a piecewise linear critic does not depend on its last biases: no gradient here, zeros there.
    for ours, other in zip(model.critic.parameters(), theirs, strict=True):
        found, wanted = (np.zeros(ours.shape) if gradient is None else gradient.numpy() for gradient in (ours.grad, other.grad))
        np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-12)
    assert model.critic.layers[0].kernel.grad.numpy().any()


def test_points_come_in_pairs() -> None:
    with pytest.raises(ShapeError, match=r"real is \(6, 3\), fake is \(5, 3\)[\s\S]*as many generated points"):
        gradient_penalty(lambda x: cr.sum(x, axis=1), REAL, FAKE[:5])


# The losses


def test_the_critics_loss_is_the_papers() -> None:
    model = small()
    noise = cr.random.Generator(5)
    loss = model.critic_loss(REAL, penalty=10.0, generator=noise)
    noise = cr.random.Generator(5)
    fake = model.generator(model.noise(6, generator=noise))
    distance = cr.mean(model.critic(fake)) - cr.mean(model.critic(REAL))
    np.testing.assert_allclose(loss.item(), (distance + 10 * gradient_penalty(model.critic, REAL, fake, generator=noise)).item())


def test_each_step_trains_one_of_them() -> None:
    model = small()
    model.critic_loss(REAL).backward()
    assert all(p.grad is None for p in model.generator.parameters())
    assert any(p.grad is not None for p in model.critic.parameters())
    model.requires_grad_(False)
    model.generator.requires_grad_()
    for p in model.critic.parameters():
        p.grad = None
    model.generator_loss(6).backward()
    assert all(p.grad is not None for p in model.generator.parameters())
    assert all(p.grad is None for p in model.critic.parameters())


def test_compiled_steps_are_eager_ones() -> None:
    def critic_step(model: Any, real: cr.Tensor) -> list[Any]:
        for p in model.critic.parameters():
            p.grad = None
        loss = model.critic_loss(real)
        loss.backward()
        return [loss, *(p.grad for p in model.critic.parameters())]

    def generator_step(model: Any, real: cr.Tensor) -> list[Any]:
        for p in model.generator.parameters():
            p.grad = None
        loss = model.generator_loss(len(real))
        loss.backward()
        return [loss, *(p.grad for p in model.generator.parameters())]

    model = small()
    for step in (critic_step, generator_step):
        results = []
        run = lambda real, step=step: step(model, real)
        for function in (run, cr.compile(run)):
            cr.manual_seed(3)
            results.append(function(cr.asarray(REAL)))
        for eager, compiled in zip(*results, strict=True):
            np.testing.assert_allclose(compiled.detach().numpy(), eager.detach().numpy(), rtol=1e-9, atol=1e-12)


def test_a_short_training_spreads_the_points_over_the_ring() -> None:
    cr.manual_seed(0)
    ring, _ = cr.data.eight_gaussians(2048, seed=0)[:]
    model = wgan_gp(hidden=(32, 32)).initialize((1, 2))
    critics, generators = (cr.optim.Adam(half.parameters(), lr=5e-3, betas=(0.5, 0.9)) for half in (model.critic, model.generator))
    rng = np.random.default_rng(0)

    @cr.compile
    def critic_step(real: cr.Tensor) -> None:
        critics.zero_grad()
        model.critic_loss(real, penalty=0.1).backward()
        critics.step()

    @cr.compile
    def generator_step() -> None:
        generators.zero_grad()
        model.generator_loss(128).backward()
        generators.step()

    def measured() -> tuple[float, float]:
        """How far the points lie from the ring, in the mean, and the least share of an eighth of it."""
        with cr.no_grad():
            x, y = model.generator(model.noise(500, generator=cr.random.Generator(1))).numpy().T
        eighths = np.floor(np.arctan2(y, x) / (np.pi / 4) + 0.5) % 8
        return float(np.abs(np.hypot(x, y) - 2).mean()), float(np.bincount(eighths.astype(int), minlength=8).min() / 500)

    before, least_before = measured()
    for _ in range(150):
        for _ in range(5):
            critic_step(ring[rng.integers(0, len(ring), 128)])
        generator_step()
    after, least = measured()
    assert before > 1
    assert after < before / 2
    assert least_before < 0.01
    assert least > 0.04
