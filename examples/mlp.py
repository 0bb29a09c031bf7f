"""A multi-layer perceptron reads handwritten digits.

python examples/mlp.py                 the digits of scikit-learn, in seconds
python examples/mlp.py --data-dir DIR  MNIST, from the folder that holds its four files

`fit` does what lenet.py writes out: shuffled batches, a compiled step, a learning rate that falls to zero, a measurement after each epoch.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import chainrule as cr
from _images import images
from _report import report


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder with the four files of MNIST")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--dropout", type=float, default=0.2)
    options = parser.parse_args(arguments)

    train, test = images(options.data_dir)
    model = cr.models.mlp(classes=10, hidden=(256, 128), dropout=options.dropout)
    history = cr.training.fit(
        model, train, test, lr=options.lr, schedule="cosine", epochs=options.epochs, batch_size=options.batch_size, progress=False, compile=True
    )
    print(model.summary())
    for record in history.epochs:
        print(f"epoch {record['epoch']}: loss {record['loss']:.4f}, test accuracy {record['validation_accuracy']:.2%}, {record['seconds']:.1f} s")
    return report("test accuracy", 100 * history.last["validation_accuracy"], "%", aim="at least 97")


if __name__ == "__main__":
    main()
