"""A Wasserstein GAN with gradient penalty learns a ring of eight narrow Gaussians, and forgets none of them.

    python examples/wgan_gp.py
    python examples/wgan_gp.py --picture ring.svg    draws what it makes in the end

Five steps of the critic for each of the generator. The critic's loss holds the length of its own gradient, so that its step
is the derivative of a derivative; compiled, it is flat code like any other. What is measured, on 2,000 points: a Gaussian is
found if at least 1% of the points lie within four standard deviations of its centre, and a point is good that lies so near to any.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import chainrule as cr
from _report import report

RADIUS, STD = 2.0, 0.02
SCALE = 1.414
"""Points are divided by it, as in the authors' code, so that they are of the order of 1."""


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="steps of the generator")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of the first step; it falls to zero")
    parser.add_argument("--penalty", type=float, default=0.1, help="weight of the gradient penalty")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="an SVG file to write")
    options = parser.parse_args(arguments)

    cr.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    points, _ = cr.data.eight_gaussians(50_000, radius=RADIUS, std=STD, seed=options.seed)[:]
    points = points / np.float32(SCALE)
    model = cr.models.wgan_gp().initialize((1, 2))
    for_critic = cr.optim.Adam(model.critic.parameters(), lr=options.lr, betas=(0.5, 0.9))
    for_generator = cr.optim.Adam(model.generator.parameters(), lr=options.lr, betas=(0.5, 0.9))

    @cr.compile
    def critic_step(real: cr.Tensor) -> cr.Tensor:
        for_critic.zero_grad()
        loss = model.critic_loss(real, penalty=options.penalty)
        loss.backward()
        for_critic.step()
        return loss

    @cr.compile
    def generator_step() -> cr.Tensor:
        for_generator.zero_grad()
        loss = model.generator_loss(options.batch_size)
        loss.backward()
        for_generator.step()
        return loss

    def made(count: int = 2000) -> np.ndarray:
        with cr.no_grad():
            return SCALE * model.generator(model.noise(count, generator=cr.random.Generator(1))).numpy()

    for done in range(1, options.steps + 1):
        for_critic.lr = for_generator.lr = options.lr * (1 - (done - 1) / options.steps)
        losses = [critic_step(points[rng.integers(0, len(points), options.batch_size)]).item() for _ in range(5)]
        generator_step()
        if done % 500 == 0 or done == options.steps:
            found, good = measured(made())
            print(f"step {done}: critic's loss {np.mean(losses):.4f}, {found} of 8 found, {good:.0%} of the points good", flush=True)

    if options.picture is not None:
        options.picture.write_text(picture(made()))
    found, good = measured(made())
    return {**report("good points", 100 * good, "%"), **report("Gaussians found", found, "of 8", aim="8")}


CENTRES = RADIUS * np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], 1)


def measured(points: np.ndarray) -> tuple[int, float]:
    """How many Gaussians are found, and the share of points near to one."""
    near = np.linalg.norm(points[:, None] - CENTRES, axis=-1) < 4 * STD
    return int((near.mean(0) >= 0.01).sum()), float(near.any(1).mean())


def picture(points: np.ndarray) -> str:
    """The points, and a circle of four standard deviations round every centre."""
    rings = [f'<circle cx="{x:.3f}" cy="{y:.3f}" r="{4 * STD}" fill="none" stroke="#d95f02" stroke-width="0.01"/>' for x, y in CENTRES]
    dots = [f'<circle cx="{x:.3f}" cy="{y:.3f}" r="0.01" fill="#1b9e77"/>' for x, y in points]
    return "\n".join(['<svg xmlns="http://www.w3.org/2000/svg" width="600" height="600" viewBox="-2.5 -2.5 5 5">', *dots, *rings, "</svg>", ""])


if __name__ == "__main__":
    main()
