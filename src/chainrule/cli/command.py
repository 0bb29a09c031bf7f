"""The command ``chainrule``: its arguments, and how mistakes are told.

What a user can get wrong is told in one line on standard error, with exit code 2; an interrupted run ends
with code 130 after saying how to go on.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Never

from chainrule.cli import actions, exploring
from chainrule.core.errors import ChainruleError
from chainrule.training import Interrupted
from chainrule.training.blas import blas_threads

USAGE_ERROR, INTERRUPTED = 2, 130
_LARGEST = 10**9
"""Numbers in one input."""

_TRAIN = """examples:
  chainrule train digits                                  1,442 real 8x8 digits, some seconds
  chainrule train mnist --data-dir ~/mnist --model lenet  the MNIST files in a folder
  chainrule train fashion_mnist --download                clothes, downloaded first
  chainrule train spirals --model mlp --epochs 50         points in the plane
  chainrule train prices.csv --target price               a table, numbers or classes to predict
  chainrule train book.txt --model transformer            a model of the characters of a text
  chainrule train digits --resume --run-dir runs/digits   go on where Ctrl-C stopped
"""
_EVALUATE = """examples:
  chainrule evaluate runs/digits                          on the test images
  chainrule evaluate runs/mnist --data-dir ~/elsewhere    whose files have moved
"""
_PREDICT = """examples:
  chainrule predict runs/digits seven.png                 the likeliest classes of a picture
  chainrule predict runs/book prompt.txt --count 400      how a text goes on
"""
_SUMMARY = """examples:
  chainrule summary alexnet                               layers, shapes, parameters, operations, bytes
  chainrule summary resnet --input 32x32x3 --batch 64     for other images
  chainrule summary runs/digits                           the network of a run
"""
_EXPLORE = """examples:
  chainrule explore neuron.py:neuron w=2 x=-1             a page of a function at these arguments
  chainrule explore model.py:loss x=batch.npy -o loss.html
"""
_EXAMPLES = """examples:
  chainrule train digits
  chainrule evaluate runs/digits
  chainrule predict runs/digits seven.png
  chainrule summary lenet
  chainrule explore neuron.py:neuron w=2 x=-1
  chainrule list

chainrule COMMAND --help has more of them.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process if not given.
    """
    given = _parser().parse_args(arguments)
    try:
        # These networks are small: see blas_threads.
        with blas_threads(1):
            given.command(given)
    except Interrupted as stopped:
        _complain(f"\n{stopped}\nto go on: {actions.resume_command(given)}")
        return INTERRUPTED
    except KeyboardInterrupt:
        _complain("\ninterrupted")
        return INTERRUPTED
    except MemoryError as error:
        _complain(f"chainrule: error: there is not enough memory: {error}; take smaller batches or inputs")
        return USAGE_ERROR
    except ChainruleError as error:
        _complain(f"chainrule: error: {actions.one_line(error)}")
        return USAGE_ERROR
    except BrokenPipeError:
        return 0
    return 0


class _Parser(argparse.ArgumentParser):
    """Tells a mistake in one line, without the usage before it."""

    def error(self, message: str) -> Never:
        self.exit(USAGE_ERROR, f"chainrule: error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        "chainrule", description="Networks that learn, on computational graphs that can be looked through.", epilog=_EXAMPLES, formatter_class=plain
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a network and leave a run folder",
        description="Train a network. The run folder holds settings, metrics, weights,\ncheckpoint and a picture of the loss.",
        epilog=_TRAIN,
        formatter_class=plain,
    )
    train.add_argument("data", metavar="DATA", help="a data set by name (chainrule list), or a .csv or text file")
    train.add_argument("--model", metavar="MODEL", help="a network by name (chainrule list); the data's usual one if not given")
    _add_places(train)
    train.add_argument("--target", metavar="COLUMN", help="of a table, what is predicted (the last column if not given)")
    train.add_argument("--classify", action="store_true", help="its values are classes, though they are numbers")
    train.add_argument("--context", type=_count, metavar="N", help="of a text, how many characters are looked at together")
    train.add_argument("--epochs", type=_count, metavar="N", help="passes over the training data")
    train.add_argument("--batch-size", type=_count, metavar="N", help="examples per step")
    train.add_argument("--optimizer", metavar="NAME", help="sgd, adam, adamw, rmsprop, ...")
    train.add_argument("--lr", type=_positive, metavar="RATE", help="the learning rate")
    train.add_argument("--schedule", metavar="NAME", help="how the learning rate goes: constant, cosine, warmup_cosine, one_cycle")
    train.add_argument("--clip-norm", type=_positive, metavar="NORM", help="limit of the gradient's norm")
    train.add_argument("--accumulate", type=_count, metavar="N", help="batches to a step")
    train.add_argument("--patience", type=_count, metavar="N", help="end after so many epochs without a better validation loss")
    train.add_argument("--tensorboard", action="store_true", help="write the curves for TensorBoard into the run folder, too")
    train.add_argument("--report", action="store_true", help="write a report of the run, one HTML file, into the run folder at the end")
    train.add_argument("--seed", type=_seed, metavar="N", help="of all randomness (0 if not given)")
    train.add_argument("--eager", action="store_true", help="do not compile the step")
    train.add_argument("--run-dir", type=Path, metavar="DIR", help="the run folder (runs/DATA, or the next free name, if not given)")
    train.add_argument("--resume", action="store_true", help="go on from the run folder's checkpoint (the latest run's, if not given)")
    train.set_defaults(command=actions.train)

    measure = commands.add_parser("evaluate", help="measure a trained network on the test data", epilog=_EVALUATE, formatter_class=plain)
    measure.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    _add_places(measure)
    measure.set_defaults(command=actions.evaluate)

    foretell = commands.add_parser("predict", help="what a trained network makes of a file", epilog=_PREDICT, formatter_class=plain)
    foretell.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    foretell.add_argument("file", type=Path, metavar="FILE", help="an image; of a model of text, how the text begins")
    foretell.add_argument("--top", type=_count, default=3, metavar="N", help="how many classes are shown (3)")
    foretell.add_argument("--count", type=_count, default=200, metavar="N", help="how many characters are written (200)")
    foretell.add_argument("--temperature", type=_positive, default=0.8, metavar="T", help="small for likely text, 1 for as learned (0.8)")
    foretell.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the characters drawn (0)")
    foretell.set_defaults(command=actions.predict)

    tell = commands.add_parser(
        "summary", help="layers, shapes, parameters, operations and bytes of a network", epilog=_SUMMARY, formatter_class=plain
    )
    tell.add_argument("model", metavar="MODEL", help="a network by name (chainrule list), or a run folder")
    tell.add_argument("--input", type=_shape, metavar="SHAPE", help="of one input, such as 28x28x1")
    tell.add_argument("--batch", type=_count, default=1, metavar="N", help="inputs at once (1)")
    tell.add_argument("--classes", type=_count, metavar="N", help="how many")
    tell.set_defaults(command=actions.summary)

    look = commands.add_parser(
        "explore", help="a page in which a function and its gradient are stepped through", epilog=_EXPLORE, formatter_class=plain
    )
    look.add_argument("function", metavar="FILE.py:FUNCTION", help="what is traced; it returns one real scalar")
    look.add_argument("arguments", nargs="*", metavar="NAME=VALUE", help="a number, a list, or a .npy file; defaults of the function need none")
    look.add_argument("-o", "--output", type=Path, default=Path("explore.html"), metavar="FILE", help="the page (explore.html)")
    look.set_defaults(command=exploring.explore)

    show = commands.add_parser("list", help="list data sets, networks and runs", epilog=_EXAMPLES, formatter_class=plain)
    show.set_defaults(command=actions.show)
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="the folder that holds the data set's files")
    parser.add_argument("--download", action="store_true", help="download them if they are not there")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(map(_count, text.split("x")))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape such as 28x28x1") from None
    if math.prod(shape) > _LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is too large for one input")
    return shape


def _complain(text: str) -> None:
    sys.stderr.write(text + "\n")
