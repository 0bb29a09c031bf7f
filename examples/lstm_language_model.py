"""An LSTM learns to write, character by character, from the text of a file.

    python examples/lstm_language_model.py            the language reference that comes with Python
    python examples/lstm_language_model.py FILE       a text of your own, of some 100,000 characters or more

The text is cut into as many long strips as a batch has rows. A step reads the next piece of every strip, and begins with the state
in which the last one ended: what came before is remembered, but not differentiated through ("truncated
backpropagation through time"). Gradients of recurrent layers can explode, so their norm is clipped.

Characters that are all equally likely cost log2(their number), 6.7 bits each for the 103 of Python's reference; knowing only how often each
occurs, 4.69. As it stands, the program reaches 1.86 bits on the tenth of the text that it has not seen, in 215 s of processor time
(AMD EPYC (Zen 4), one thread; Python 3.11.7, NumPy 2.4.6).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np

import chainrule as cr
from _report import report


def reference() -> str:
    """The topics of Python's own ``help()``, as one text."""
    return "\n\n".join(topics.values())


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="a text in UTF-8")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=64, help="characters of each row in one step")
    parser.add_argument("--lr", type=float, default=4e-3, help="learning rate of the first step; it falls to zero")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    cr.manual_seed(options.seed)
    text = Path(options.file).read_text("utf-8") if options.file else reference()
    characters = sorted(set(text))
    numbers = {character: number for number, character in enumerate(characters)}
    tokens = np.array([numbers[character] for character in text])
    train, held_out = strips(tokens[: -len(tokens) // 10], options.batch_size), strips(tokens[-len(tokens) // 10 :], options.batch_size)
    shares = np.bincount(tokens) / len(tokens)
    order_0 = -sum(share * math.log2(share) for share in shares if share)
    print(f"{len(text):,} characters, {len(characters)} different ones; {order_0:.2f} bits each by frequency alone")

    model = cr.models.lstm_language_model(len(characters), units=options.units)
    optimizer = cr.optim.Adam(model.parameters(), lr=options.lr)

    @cr.compile
    def step(x: cr.Tensor, y: cr.Tensor, state: Any) -> tuple[cr.Tensor, Any]:
        optimizer.zero_grad()
        logits, state = model(x, state=state, return_state=True)
        loss = cr.nn.losses.softmax_cross_entropy(logits, y)
        loss.backward()
        cr.optim.clip_by_norm(model.parameters(), 1.0)
        optimizer.step()
        return loss, [[part.detach() for part in layer] for layer in state]

    @cr.compile
    def bits(x: cr.Tensor, y: cr.Tensor, state: Any) -> tuple[cr.Tensor, Any]:
        with cr.no_grad():
            logits, state = model(x, state=state, return_state=True)
            return cr.nn.losses.softmax_cross_entropy(logits, y) / math.log(2), state

    nothing = [[cr.zeros((options.batch_size, options.units))] * 2]
    begun, state, place, reached = time.perf_counter(), nothing, 0, math.inf
    for done in range(1, options.steps + 1):
        if place + options.length >= train.shape[1]:
            state, place = nothing, 0
        optimizer.lr = options.lr * (1 - (done - 1) / options.steps)
        loss, state = step(*piece(train, place, options.length), state)
        place += options.length
        if done % 250 == 0 or done == options.steps:
            found, held_state = [], nothing
            for start in range(0, held_out.shape[1] - options.length, options.length):
                cost, held_state = bits(*piece(held_out, start, options.length), held_state)
                found.append(cost.item())
            reached = sum(found) / len(found)
            now = time.perf_counter() - begun
            print(f"step {done}: {loss.item() / math.log(2):.3f} bits, held out {reached:.3f} bits per character, {now:.0f} s")

    drawn = model.generate([numbers[character] for character in text[:100]], 400, temperature=0.7, seed=options.seed)
    print("".join(characters[number] for number in drawn.tolist()))
    return report("held-out text", reached, "bits per character", aim=f"under half of {order_0:.2f}")


def strips(tokens: np.ndarray, rows: int) -> np.ndarray:
    """The text as rows of equal length, one after the other; what is over is left out."""
    return tokens[: len(tokens) // rows * rows].reshape(rows, -1)


def piece(strips: np.ndarray, start: int, length: int) -> tuple[cr.Tensor, cr.Tensor]:
    """The characters of every row from a place on, and those that come after each of them."""
    return cr.tensor(strips[:, start : start + length]), cr.tensor(strips[:, start + 1 : start + length + 1])


if __name__ == "__main__":
    main()
