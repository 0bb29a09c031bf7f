"""Logistic regression tells malignant tumours from benign ones.

    python examples/logistic_regression.py

The data are 569 tumours of the breast, scikit-learn's own: thirty measurements of cell nuclei for each, and what it
was. One in five is held out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from sklearn.datasets import load_breast_cancer

import chainrule as cr
from _report import report


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--lr", type=float, default=0.01)
    options = parser.parse_args(arguments)

    features, benign = load_breast_cancer(return_X_y=True)
    held_out = np.arange(len(features)) % 5 == 4
    x = ((features - features[~held_out].mean(0)) / features[~held_out].std(0)).astype(np.float32)
    malignant = (1 - benign[:, None]).astype(np.float32)

    model = cr.models.logistic_regression()
    train, test = (x[~held_out], malignant[~held_out]), (x[held_out], malignant[held_out])
    history = cr.training.fit(model, train, test, loss="sigmoid_cross_entropy", lr=options.lr, epochs=options.epochs, progress=False, compile=True)
    every = max(1, options.epochs // 5)
    for record in history.epochs[every - 1 :: every]:
        print(f"epoch {record['epoch']}: loss {record['loss']:.4f}, held-out accuracy {record['validation_binary_accuracy']:.2%}")

    said, true = model(test[0]).detach().numpy() > 0, test[1] > 0.5
    print(f"of {true.sum()} malignant tumours {(said & true).sum()} are found; {(said & ~true).sum()} of {(~true).sum()} benign ones raise an alarm")
    return report("accuracy on held-out tumours", 100 * history.last["validation_binary_accuracy"], "%", aim="at least 95")


if __name__ == "__main__":
    main()
