"""Depth: no part of the engine recurses on the length of a graph, freeing included."""

from __future__ import annotations

import subprocess
import sys

import chainrule as cr

DEPTH = 100_000


def chain(x: cr.Tensor, factor: cr.Tensor, depth: int = DEPTH) -> cr.Tensor:
    for _ in range(depth):
        x = x * factor
    return x


def test_a_deep_chain_goes_forward_and_backward_and_is_freed() -> None:
    x = cr.tensor(2.0, dtype="float64", requires_grad=True)
    y = chain(x, cr.tensor(1.0, dtype="float64"))
    y.backward()
    assert x.grad is not None
    assert x.grad.item() == 1.0
    del y


def test_a_deep_chain_is_freed_without_a_backward_pass() -> None:
    y = chain(cr.tensor(2.0, requires_grad=True), cr.tensor(1.0))
    del y


def test_a_deep_chain_has_a_tangent() -> None:
    out, tangent = cr.jvp(lambda x: chain(x, cr.tensor(1.0)), (cr.tensor(2.0),), (cr.tensor(3.0),))
    assert (out.item(), tangent.item()) == (2.0, 3.0)


def test_a_deep_chain_can_be_differentiated_twice() -> None:
    depth = DEPTH // 10
    x = cr.tensor(1.0, dtype="float64", requires_grad=True)
    (gradient,) = cr.autograd.grad(chain(x, x, depth), [x], create_graph=True)
    (second,) = cr.autograd.grad(gradient, [x])
    assert gradient.item() == depth + 1
    assert second.item() == (depth + 1) * depth


def test_only_the_part_of_a_deep_graph_that_is_asked_for_is_swept() -> None:
    x = cr.tensor(2.0, requires_grad=True)
    middle = chain(x, cr.tensor(1.0))
    end = middle * 3.0
    assert cr.autograd.grad(end, [middle])[0].item() == 3.0


PROGRAM = """
import threading
import chainrule as cr

def work():
    x = cr.tensor(2.0, requires_grad=True)
    one = cr.tensor(1.0)
    y = x
    for _ in range({depth}):
        y = y * one
    y.backward()
    assert x.grad.item() == 1.0
    z = x
    for _ in range({depth}):
        z = z + one
    del z
    print("freed")

threading.stack_size({stack})
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def test_a_deep_chain_fits_a_small_stack() -> None:
    program = PROGRAM.format(depth=DEPTH, stack=256 * 1024)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, "freed"), result.stderr
