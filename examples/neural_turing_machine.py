"""A Neural Turing Machine learns to copy: an algorithm, found by gradient descent.

    python examples/neural_turing_machine.py

The machine sees 1 to 20 random vectors of 8 bits, then a delimiter, then nothing, while it has to say them again. It is
then asked for 40, more than it has ever seen, which no network that has only learned by heart could give. What is measured is
the binary cross-entropy in bits per bit of the answer: 1 for guessing, 0 for certain and right. In the end it shows where its
heads were: the program that it has found can be read.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Sequence

import numpy as np

import chainrule as cr
from _report import report

WIDTH = 8


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=20, help="most vectors in training; twice as many are tested too")
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate of the first step; it falls to zero")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    # Every length is compiled for itself. That is cheap: of a loop one step is compiled, however long it runs.
    warnings.simplefilter("ignore", cr.errors.CompileWarning)

    cr.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    model = cr.models.neural_turing_machine(WIDTH + 1, WIDTH)
    # Once it copies, gradients are tiny: eps keeps Adam from making large steps of them, which would undo what was learned.
    optimizer = cr.optim.Adam(model.parameters(), lr=options.lr, eps=1e-5)

    def bits_per_bit(sequence: cr.Tensor, bits: cr.Tensor) -> cr.Tensor:
        answer = model(sequence)[:, -bits.shape[1] :]
        return cr.mean(cr.sigmoid_cross_entropy(answer, bits)) / math.log(2)

    @cr.compile
    def step(sequence: cr.Tensor, bits: cr.Tensor) -> cr.Tensor:
        optimizer.zero_grad()
        loss = bits_per_bit(sequence, bits)
        loss.backward()
        # So would the few gradients that are hundreds of times as large as the others.
        cr.optim.clip_by_norm(model.parameters(), 0.1)
        optimizer.step()
        return loss

    evaluate = cr.compile(bits_per_bit)

    def tested(length: int) -> float:
        with cr.no_grad():
            return evaluate(*cr.data.copy_task(length, width=WIDTH, count=256, seed=options.seed)[:]).item()

    recent: list[float] = []
    for done in range(options.steps):
        optimizer.lr = options.lr * (1 - done / options.steps)
        length, seed = int(rng.integers(1, options.length + 1)), int(rng.integers(2**32))
        recent.append(step(*cr.data.copy_task(length, width=WIDTH, count=options.batch_size, seed=seed)[:]).item())
        if (done + 1) % 100 == 0:
            print(
                f"step {done + 1}: {np.mean(recent):.4f} bits per bit in training, {tested(options.length):.4f} at length {options.length}",
                flush=True,
            )
            recent.clear()

    show(model, length=min(10, options.length))
    results = [
        report(f"copying {length} vectors", tested(length), "bits per element", aim="below 0.1") for length in (options.length, 2 * options.length)
    ]
    return results[0] | results[1]


def show(model: cr.models.NeuralTuringMachine, length: int) -> None:
    """Where the heads are while the vectors come in, and while they go out: the slot of the largest weight, and how large it is at least."""
    sequence, _ = cr.data.copy_task(length, width=WIDTH, count=1)[:]
    with cr.no_grad():
        weights = model.addressing(sequence)
    for what, part, steps in (("writing", weights.write, slice(0, length)), ("reading", weights.read, slice(length + 1, None))):
        focus = part.numpy()[0, steps, 0]
        print(f"{what} the vectors, the head is at slots {focus.argmax(-1).tolist()}, with weights of {focus.max(-1).min():.2f} or more")


if __name__ == "__main__":
    main()
