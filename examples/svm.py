"""A support vector machine reads handwritten digits: the right class must lead all others by a margin of 1.

    python examples/svm.py

The loss is the multi-class hinge, which is 0 where the margin is kept; the price of the weights, which the model carries
itself, then makes them as small as the margins allow. Examples whose loss is not 0 are the support vectors.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import chainrule as cr
from _report import report


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--l2", type=float, default=1e-3, help="the price of a weight's square")
    options = parser.parse_args(arguments)

    model = cr.models.svm(classes=10, l2=options.l2)
    train, test = cr.data.digits("train"), cr.data.digits("test")
    history = cr.training.fit(
        model, train, test, loss="multiclass_hinge", lr=options.lr, schedule="cosine", epochs=options.epochs, progress=False, compile=True
    )
    every = max(1, options.epochs // 5)
    for record in history.epochs[every - 1 :: every]:
        hinge, penalty, accuracy = record["loss"], record["penalty"], record["validation_accuracy"]
        print(f"epoch {record['epoch']}: hinge {hinge:.4f}, penalty {penalty:.4f}, test accuracy {accuracy:.2%}")

    images, labels = train[:]
    losses = cr.nn.losses.multiclass_hinge(model(images), labels, reduction="none").detach().numpy()
    print(f"{(losses > 0).sum()} of {len(train)} training images are support vectors")
    return report("test accuracy", 100 * history.last["validation_accuracy"], "%", aim="at least 95")


if __name__ == "__main__":
    main()
