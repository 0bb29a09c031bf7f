"""A softmax classifier reads handwritten digits: one template for each class, and nothing hidden.

    python examples/softmax_classifier.py

At the end it draws the weights of a class: where ink speaks for it (#, +) and where against it (-, =).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

import chainrule as cr
from _report import report


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--draw", type=int, default=0, choices=range(10), help="the class whose template to draw")
    options = parser.parse_args(arguments)

    model = cr.models.softmax_classifier(classes=10)
    train, test = cr.data.digits("train"), cr.data.digits("test")
    history = cr.training.fit(model, train, test, lr=options.lr, epochs=options.epochs, progress=False, compile=True)
    every = max(1, options.epochs // 5)
    for record in history.epochs[every - 1 :: every]:
        print(f"epoch {record['epoch']}: loss {record['loss']:.4f}, test accuracy {record['validation_accuracy']:.2%}")

    template = model.layers[1].kernel.detach().numpy()[:, options.draw].reshape(8, 8)
    levels = np.digitize(template / np.abs(template).max(), [-0.5, -0.15, 0.15, 0.5])
    print(f"what speaks for a {options.draw}:", *(" ".join("=- +#"[level] for level in row) for row in levels), sep="\n  ")
    return report("test accuracy", 100 * history.last["validation_accuracy"], "%", aim="at least 95")


if __name__ == "__main__":
    main()
