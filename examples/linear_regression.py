"""Linear regression foretells how far a patient's diabetes comes in a year.

    python examples/linear_regression.py

The data are 442 patients, scikit-learn's own: ten measurements of each (age, blood pressure, ...), and a number for the progress of
the disease a year later. One in five is held out. R^2 is the share of the variance that is foretold; the yardstick is the
solution in closed form, to which gradient descent must come.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from sklearn.datasets import load_diabetes

import chainrule as cr
from _report import report


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--lr", type=float, default=0.05)
    options = parser.parse_args(arguments)

    cr.manual_seed(0)
    features, progress = load_diabetes(return_X_y=True)
    held_out = np.arange(len(features)) % 5 == 4
    center, scale = features[~held_out].mean(0), features[~held_out].std(0)
    x = ((features - center) / scale).astype(np.float32)
    y = (progress[:, None] / 100).astype(np.float32)

    model = cr.models.linear_regression()
    optimizer = cr.optim.SGD(model.parameters(), lr=options.lr, momentum=0.9)
    x_train, y_train = cr.tensor(x[~held_out]), cr.tensor(y[~held_out])

    @cr.compile
    def step() -> cr.Tensor:
        optimizer.zero_grad()
        loss = cr.nn.losses.mean_squared_error(model(x_train), y_train)
        loss.backward()
        optimizer.step()
        return loss

    for number in range(1, options.steps + 1):
        loss = step()
        if number % max(1, options.steps // 5) == 0:
            print(f"step {number}: loss {loss.item():.4f}")

    def explained(predicted: np.ndarray) -> float:
        """R^2 on the patients held out."""
        return float(1 - np.mean((predicted - y[held_out]) ** 2) / np.var(y[held_out]))

    with_ones = np.column_stack([x, np.ones(len(x))])
    exact = with_ones[held_out] @ np.linalg.lstsq(with_ones[~held_out], y[~held_out])[0]
    print(f"least squares in closed form: {explained(exact):.4f}")
    return report("R^2 on held-out patients", explained(model(x[held_out]).detach().numpy()), aim=f"least squares' own, {explained(exact):.4f}")


if __name__ == "__main__":
    main()
