"""An autoencoder describes images of digits in a few numbers, and draws them again.

    python examples/autoencoder.py                 the digits of scikit-learn
    python examples/autoencoder.py --data-dir DIR  MNIST, from the folder that holds its four files

The yardstick is the best linear description of the same size, the principal components: what the hidden layers are for is what
they do better, on images that neither has learned from.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

import chainrule as cr
from _images import images
from _report import report


def principal_components(train: np.ndarray, test: np.ndarray, count: int) -> float:
    """The mean squared error of the test images behind this many components of the training images."""
    mean = train.mean(0)
    _, axes = np.linalg.eigh((train - mean).T @ (train - mean))
    kept = axes[:, -count:]
    return float(np.mean((test - mean - (test - mean) @ kept @ kept.T) ** 2))


def drawn(image: np.ndarray) -> list[str]:
    """An image in characters, a line for each row; small ones twice as wide, since characters are tall."""
    return ["".join(" .:-=+*#%@"[int(level)] * (16 // len(row) or 1) for level in np.clip(row * 10, 0, 9)) for row in image]


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder with the four files of MNIST")
    parser.add_argument("--epochs", type=int, help="if not given, 100 for the digits and 10 for MNIST")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--latent", type=int, default=8, help="how many numbers describe an image")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    epochs = options.epochs or (10 if options.data_dir else 100)

    cr.manual_seed(options.seed)
    train, test = images(options.data_dir)
    model = cr.models.autoencoder(options.latent, hidden=(256, 64))
    optimizer = cr.optim.AdamW(model.parameters(), lr=options.lr)
    loader = cr.data.DataLoader(train, options.batch_size, shuffle=True, seed=options.seed, drop_last=True)
    schedule = cr.optim.schedules.Cosine(optimizer, epochs * len(loader))

    @cr.compile
    def step(x: cr.Tensor) -> cr.Tensor:
        optimizer.zero_grad()
        loss = cr.nn.losses.mean_squared_error(model(x), x)
        loss.backward()
        optimizer.step()
        return loss

    for epoch in range(1, epochs + 1):
        total = 0.0
        for x, _ in loader:
            total += step(x).item()
            schedule.step()
        if epoch % max(1, epochs // 5) == 0:
            print(f"epoch {epoch}: mean squared error {total / len(loader):.5f}")

    (learned, _), (unseen, _) = train[:], test[:]
    again = model(unseen).detach().numpy()
    error = float(np.mean((again - unseen) ** 2))
    linear = principal_components(learned.reshape(len(learned), -1), unseen.reshape(len(unseen), -1), options.latent)
    print("unseen images, and what came back:")
    for lines in zip(*(drawn(image[..., 0]) for pair in zip(unseen[:2], again[:2], strict=True) for image in pair), strict=True):
        print("  ".join(lines))
    print(f"{options.latent} principal components: {linear:.5f}")
    return report("error of unseen images", error, f"with {options.latent} numbers an image", aim=f"less than the principal components' {linear:.4g}")


if __name__ == "__main__":
    main()
