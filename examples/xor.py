"""XOR and the paw: what a hidden layer is for.

    python examples/xor.py

The corners of a square, of which opposite ones belong together, and three shades, of which white and black belong together: no
straight line parts them, so the best that a linear model can do is to say of all of them the same. Two layers part them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

import chainrule as cr
from _report import report

PROBLEMS = {
    "XOR": (np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32), np.array([[0], [1], [1], [0]], np.float32)),
    "paw": (np.array([[1], [0], [0.5]], np.float32), np.array([[1], [1], [0]], np.float32)),
}
"""Inputs, and whether each belongs to the class."""


def learned(model: cr.nn.Layer, inputs: np.ndarray, labels: np.ndarray, steps: int) -> np.ndarray:
    """The probability of each input after training."""
    x, y = cr.tensor(inputs), cr.tensor(labels)
    optimizer = cr.optim.Adam(model.parameters(), lr=0.05)

    @cr.compile
    def step() -> None:
        optimizer.zero_grad()
        cr.nn.losses.sigmoid_cross_entropy(model(x), y).backward()
        optimizer.step()

    for _ in range(steps):
        step()
    return cr.sigmoid(model(x)).detach().numpy()


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    cr.manual_seed(options.seed)
    right = 0
    for problem, (inputs, labels) in PROBLEMS.items():
        networks = {"linear": cr.models.logistic_regression(), "two layers": cr.models.mlp(classes=1, hidden=(8,), activation="tanh")}
        for name, model in networks.items():
            probabilities = learned(model, inputs, labels, options.steps)
            said = ", ".join(f"{row} -> {p:.2f}" for row, p in zip(inputs.tolist(), probabilities.ravel(), strict=True))
            print(f"{problem}, {name}: {said}")
        right += int(((probabilities > 0.5) == labels).sum())
    return report("inputs that two layers tell", right, "of 7", aim="7")


if __name__ == "__main__":
    main()
