"""Memory against time: a training step of 64 layers under budgets from all that it takes down to the least possible.

Every row is measured in a process of its own: the peak of what Python and NumPy allocate during a call that is not the first, and
then the time of calls. One thread for NumPy.
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import json
import platform
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import chainrule as cr
from chainrule.core.size import show_bytes

DEPTH, WIDTH, BATCH = 64, 128, 2048
STRETCH = 8
NETWORKS = {"dense": 0.0, "dense with dropout": 0.1}
BUDGETS = {"100%": 1.0, "50%": 0.5, "25%": 0.25, "the least": 0.0}
UNLIMITED = 1 << 40


def training_step(dropout: float, wrap: Callable[[Any], Any]) -> tuple[Callable[[cr.Tensor], cr.Tensor], cr.Tensor]:
    rng = np.random.default_rng(0)
    weights = [cr.tensor(rng.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5, dtype="float32", requires_grad=True) for _ in range(DEPTH)]
    optimizer = cr.optim.SGD(weights, lr=0.01)

    def stretch(x: cr.Tensor, first: int) -> cr.Tensor:
        for w in weights[first : first + STRETCH]:
            x = cr.tanh(x @ w)
            if dropout:
                x = cr.random.dropout(x, dropout)
        return x

    part = wrap(stretch)

    def step(x: cr.Tensor) -> cr.Tensor:
        for first in range(0, DEPTH, STRETCH):
            x = part(x, first)
        loss = cr.mean(x * x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step, cr.tensor(rng.normal(size=(BATCH, WIDTH)), dtype="float32")


def itself(f: Any) -> Any:
    return f


def run_row(network: str, way: str, budget: int) -> dict[str, Any]:
    """What the parent process wants to know of one row."""
    step, x = training_step(NETWORKS[network], cr.checkpoint if way == "checkpoints" else itself)
    run = cr.compile(step, backend="numpy", memory_budget=budget) if way == "compiled" else step
    try:
        loss = run(x).item()
    except cr.errors.ArgumentError as error:
        return {"least": int(str(error).partition("(")[2].partition(" bytes")[0])}
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    run(x)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    times: list[float] = []
    while len(times) < 5 or sum(times) < 3:
        began = perf_counter()
        run(x)
        times.append(perf_counter() - began)
    told: dict[str, Any] = {"loss": loss, "peak": peak, "time": median(times)}
    if way == "compiled":
        (one,) = run.stats().compilations
        report = one["memory"]
        told |= {"before": report.before, "after": report.after, "again": sum(report.recomputed.values()), "stages": report.stages}
        told |= {"predicted": 1 + report.extra_seconds / report.seconds, "planning": one["passes"]["remat"]["milliseconds"]}
    return told


def in_fresh_process(*row: object) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, "--row", *map(str, row)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def rows(network: str) -> Iterator[str]:
    everything = in_fresh_process(network, "compiled", UNLIMITED)
    least = in_fresh_process(network, "compiled", 1)["least"]
    base: float | None = None
    for name, share in BUDGETS.items():
        budget = max(int(share * everything["before"]), least)
        found = in_fresh_process(network, "compiled", budget)
        assert found["loss"] == everything["loss"]
        assert found["after"] <= budget
        base = base or found["time"]
        yield (
            f"| {network}, {name} | {show_bytes(budget)} | {show_bytes(found['after'])} | {show_bytes(found['peak'])} | {found['again']} "
            f"| {found['predicted']:.2f} | {found['time'] / base:.2f} | {1e3 * found['time']:.0f} ms | {found['planning']:.0f} ms |"
        )
    for name, way in (("eager", "eager"), (f"eager, checkpoints of {STRETCH} layers", "checkpoints")):
        found = in_fresh_process(network, way, 0)
        assert found["loss"] == everything["loss"]
        yield f"| {network}, {name} | | | {show_bytes(found['peak'])} | | | {found['time'] / base:.2f} | {1e3 * found['time']:.0f} ms | |"


PAGE = """# Memory against time

`make bench-memory` writes this page. A training step of {depth} layers of {width}, batch {batch}, float32, with gradient descent, compiled with
`memory_budget=`: 100% is what the step takes without recomputation, the last row of budgets the least that is possible. What a layer
hands to the next is {layer}.

{machine}

| network, budget | bytes | predicted peak | measured peak | recomputations | predicted time | measured time | per step | planning |
|---|---|---|---|---|---|---|---|---|
{table}

Times are relative to the first row of each network. The loss has the same bits in all rows. The peak is measured with tracemalloc in a call that is
not the first, and the parameters are not in it: they are there before. Planning is a part of compiling, and happens once.

The machine is shared: trust the ratios more than the milliseconds.

## Machine code

The table is of NumPy code, which allocates in every call what it needs. Machine code keeps the memory of a step, its arena, from call to
call; `stats()` says how large it is ("arena_bytes"). For the dense network it is 33.6 MB under the budget of 34.6 MB, and 16.8 MB under
that of 17.3 MB. Near the least that is possible it may take more than the budget, 7.4 MB under one of 6.92 MB: what products pack for
themselves counts, too. Without a budget it is 133 MB, twice what NumPy code takes, since the gradient of a weight is made where the update
behind it is, in the same kernel, and what it is made of waits for that.

A function that returns its loss, so that `backward` is called outside, becomes two steps, each within the budget by itself; where there is
no room for what the first would keep for the second, the second begins at the arguments. Each keeps an arena of its own: the first 2.1 MB
and the second 32.6 MB under a budget of 34.6 MB, 2.1 MB and 15.8 MB under one of 17.3 MB. They do not share one: two Python threads may be
in the two at once, so that every call would have to ask whether the arena is free, for the smaller of the two.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="write the page here")
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        network, way, budget = options.row
        print(json.dumps(run_row(network, way, int(budget))))
        return
    table: list[str] = []
    for network in NETWORKS:
        for row in rows(network):
            table.append(row)
            print(row, flush=True)
    machine = f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, one thread."
    sizes = {"depth": DEPTH, "width": WIDTH, "batch": BATCH, "layer": show_bytes(BATCH * WIDTH * 4)}
    page = PAGE.format(machine=machine, table="\n".join(table), **sizes)
    if options.output:
        options.output.write_text(page)
    else:
        print("\n" + page)


if __name__ == "__main__":
    main()
