"""AlexNet in its small form learns from small images.

    python examples/alexnet.py                 the digits of scikit-learn, in a minute
    python examples/alexnet.py --data-dir DIR  CIFAR-10, from the folder with its binary files

Trained as in the paper: momentum, weight decay, dropout, and for photographs random crops and reflections; but with batch size,
learning rate and its schedule for the smaller task.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import chainrule as cr
from _images import images
from _report import report


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder with the files of CIFAR-10")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    train, test = images(options.data_dir, "cifar10")
    transforms = cr.data.transforms
    varied = transforms.compose(transforms.random_crop(4), transforms.random_flip()) if options.data_dir else None
    loader = cr.data.DataLoader(train, options.batch_size, shuffle=True, seed=options.seed, drop_last=True, transform=varied)

    cr.manual_seed(options.seed)
    model = cr.models.alexnet(classes=10, small=True)
    optimizer = cr.optim.SGD(model.parameters(), lr=options.lr, momentum=0.9, weight_decay=5e-4)
    history = cr.training.fit(
        model, loader, test, optimizer=optimizer, schedule="cosine", epochs=options.epochs, seed=options.seed, progress=False, compile=True
    )
    print(model.summary())
    for record in history.epochs:
        print(f"epoch {record['epoch']}: loss {record['loss']:.4f}, test accuracy {record['validation_accuracy']:.2%}, {record['seconds']:.0f} s")
    return report("test accuracy", 100 * history.last["validation_accuracy"], "%", aim="at least 97 on the digits")


if __name__ == "__main__":
    main()
