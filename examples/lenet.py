"""LeNet-5 learns to read handwritten digits.

    python examples/lenet.py                            the digits of scikit-learn, in seconds
    python examples/lenet.py --data-dir DIR --epochs 4  MNIST, from the folder that holds its four files

The loop is written out. What pays: the step compiled into one function, weights that decay, and a learning rate that falls to
zero, so that the last epoch settles what the first ones have found.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import chainrule as cr
from _images import images
from _report import report


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder with the four files of MNIST")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate of the first step")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    cr.manual_seed(options.seed)
    train, test = images(options.data_dir, enlarge=True)
    model = cr.models.lenet(classes=10)
    optimizer = cr.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.1)
    loader = cr.data.DataLoader(train, options.batch_size, shuffle=True, seed=options.seed, drop_last=True)

    @cr.compile
    def step(x: cr.Tensor, labels: cr.Tensor) -> cr.Tensor:
        optimizer.zero_grad()
        loss = cr.nn.losses.softmax_cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    done, steps, accuracy, begun = 0, options.epochs * len(loader), 0.0, time.perf_counter()
    for epoch in range(1, options.epochs + 1):
        model.train()
        total = 0.0
        for x, labels in loader:
            optimizer.lr = options.lr * (1 - done / steps)
            total += step(x, labels).item()
            done += 1
        accuracy = cr.training.evaluate(model, test)["accuracy"]
        print(f"epoch {epoch}: loss {total / len(loader):.4f}, test accuracy {accuracy:.2%}, {time.perf_counter() - begun:.0f} s")
    return report("test accuracy", 100 * accuracy, "%", aim="at least 99 in under 5 epochs" if options.data_dir else "at least 95")


if __name__ == "__main__":
    main()
