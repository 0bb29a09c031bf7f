"""Random steps that change state, compiled beside uncompiled, call after call: ``python tests/fuzz_state.py --count 2000``.

What is compared after every call: results, state, parameters, gradients, what optimizers keep, and all that the caller still holds from earlier calls
and from before: results, views, NumPy arrays that were handed in. Nothing that is held may change but what changes without compiling too.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import chainrule as cr
from chainrule import optim
from chainrule.compiler.native import emit
from chainrule.tensor import Tensor

OPTIMIZERS: dict[str, Callable[[list[Tensor]], Any]] = {
    "sgd": lambda ps: optim.SGD(ps, lr=0.1),
    "momentum": lambda ps: optim.SGD(ps, lr=0.05, momentum=0.9),
    "nesterov": lambda ps: optim.SGD(ps, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda ps: optim.Adam(ps, lr=0.01),
    "adamw": lambda ps: optim.AdamW(ps, lr=0.01),
    "rmsprop": lambda ps: optim.RMSProp(ps, lr=0.01),
    "adagrad": lambda ps: optim.Adagrad(ps, lr=0.05),
}
SHAPES = [(), (3,), (5, 5), (17, 17), (64, 64), (150, 150), (40000,)]


@dataclass
class Plan:
    """What a step does and what its caller does between calls, drawn from a seed: numbers and names alone, so that it can be done twice."""

    seed: int
    calls: int = 7
    shape: tuple[int, ...] = ()
    states: int = 0
    parameters: int = 0
    optimizer: str = ""
    shared: bool = False
    acts: list[tuple[str, int, int, float]] = field(default_factory=list[tuple[str, int, int, float]])
    between: list[list[tuple[str, int, int]]] = field(default_factory=list[list[tuple[str, int, int]]])

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)

        def pick(items: Any) -> Any:
            return items[int(rng.integers(len(items)))]

        self.shape = pick(SHAPES)
        self.states, self.parameters = int(rng.integers(1, 4)), int(rng.integers(0, 4))
        self.optimizer, self.shared = pick([*OPTIMIZERS]), bool(rng.random() < 0.3)
        draw = [*ACTS, "train"] if self.parameters else [*ACTS]
        for _ in range(int(rng.integers(1, 7))):
            self.acts.append((pick(draw), int(rng.integers(8)), int(rng.integers(8)), float(rng.uniform(0.3, 0.9))))
        for _ in range(self.calls):
            self.between.append([(pick([*BETWEEN]), int(rng.integers(8)), int(rng.integers(8))) for _ in range(int(rng.integers(0, 4)))])

    def __str__(self) -> str:
        words = f"seed {self.seed}: {self.states} states, {self.parameters} parameters of {self.shape}, {self.optimizer}, shared {self.shared}"
        return "\n".join([words, *(f"  {act}" for act in self.acts), *(f"  between {i}: {acts}" for i, acts in enumerate(self.between))])


class Machine:
    """State, and a step that changes it."""

    def __init__(self, plan: Plan, given: list[np.ndarray]) -> None:
        self.plan = plan
        rng = np.random.default_rng(plan.seed + 1)
        self.states = [cr.tensor(given[i].copy()) for i in range(plan.states)]
        self.parameters = [cr.tensor(rng.normal(size=plan.shape), requires_grad=True) for _ in range(plan.parameters)]
        if plan.shared:
            # Two names of one array.
            self.states.append(self.states[0].detach())
            if plan.parameters > 1:
                with cr.no_grad():
                    self.parameters[1].assign(self.parameters[0])
        self.optimizer = OPTIMIZERS[plan.optimizer](self.parameters) if self.parameters else None

    def state(self, i: int) -> Tensor:
        return self.states[i % len(self.states)]

    def any(self, i: int) -> Tensor:
        every = [*self.states, *self.parameters]
        return every[i % len(every)]

    def value(self, i: int) -> Tensor:
        return self.any(i).detach()

    def step(self, x: Any, y: Any) -> list[Any]:
        x = cr.asarray(x)
        results: list[Any] = [cr.sum(x * y)]
        for name, i, j, c in self.plan.acts:
            if name == "train":
                self.train(x, i, c)
            else:
                with cr.no_grad():
                    results += ACTS[name](self, x, i, j, c) or []
        return results

    def train(self, x: Any, i: int, c: float) -> None:
        """Some of it leaves gradients as they add up, or steps twice."""
        assert self.optimizer is not None
        if i != 0:
            self.optimizer.zero_grad()
        loss = sum((cr.sum(cr.square(cr.tanh(p) - x * c)) for p in self.parameters), start=cr.sum(x) * 0.0)
        loss.backward()
        if i == 1:
            optim.clip_by_norm(self.parameters, 0.5)
        if i != 2:
            self.optimizer.step()

    def values(self) -> list[Any]:
        """All that a step may change."""
        grads = [p.grad for p in self.parameters]
        kept = [] if self.optimizer is None else [x for slots in self.optimizer.state_dict()["state"].values() for x in slots.values()]
        return [*self.states, *self.parameters, *grads, *kept]


class World:
    """A machine and its caller, who compiles the step or not."""

    def __init__(self, plan: Plan, *, compiled: bool) -> None:
        self.plan = plan
        rng = np.random.default_rng(plan.seed + 2)
        self.given = [np.asarray(rng.normal(size=plan.shape)) for _ in range(4)]
        self.machine = machine = Machine(plan, self.given)
        self.state, self.any, self.parameters = machine.state, machine.any, machine.parameters
        self.held: list[Any] = []
        self.arrays: list[np.ndarray] = []
        self.x: Any = self.array(0)
        self.out: list[Any] = []
        self.step: Callable[..., Any] = cr.compile(machine.step, backend="native") if compiled else machine.step

    def array(self, i: int) -> np.ndarray:
        """Of the caller's own, which nobody may change."""
        self.arrays.append(self.given[i % 4].copy())
        return self.arrays[-1]

    def call(self, turn: int) -> None:
        for name, i, j in self.plan.between[turn]:
            if name == "by hand":
                self.held += [x.detach() for x in self.machine.step(self.x, self.given[3])]
                continue
            with cr.no_grad():
                BETWEEN[name](self, i, j)
        # A state that is given out is the state itself uncompiled, and its present value compiled.
        self.out = [x.detach() for x in self.step(self.x, self.state(turn) if turn == 3 else self.given[3])]

    def seen(self) -> list[Any]:
        """All that can be looked at."""
        return [*self.machine.values(), *self.out, *self.held, *self.arrays]


def _set(tensor: Tensor, value: Any) -> None:
    tensor.assign(value)


Act = Callable[[Machine, Any, int, int, float], Any]


def _swap(w: Machine, x: Any, i: int, j: int, c: float) -> None:
    a, b = w.state(i), w.state(j)
    before = a.detach()
    a.assign(b)
    b.assign(before)


def _rotate(w: Machine, x: Any, i: int, j: int, c: float) -> None:
    values = [s.detach() for s in w.states]
    for s, value in zip(w.states, [*values[1:], cr.tanh(values[0])], strict=True):
        s.assign(value)


def _add(w: Machine, x: Any, i: int, j: int, c: float) -> None:
    s = w.state(i)
    s += x * c
    s *= c


def _old(w: Machine, x: Any, i: int, j: int, c: float) -> list[Any]:
    old = w.state(i).detach()
    w.state(i).assign(old * c + x)
    return [old]


def _scan(w: Machine, x: Any, i: int, j: int, c: float) -> list[Any]:
    s = w.state(i)
    last, rows = cr.scan(lambda carry, t: (cr.tanh(carry * t + s * c), cr.sum(carry)), s * 1.0, np.array([0.5, 0.2, 0.7]))
    w.state(j).assign(last)
    return [rows]


ACTS: dict[str, Act] = {
    "add": _add,
    "swap": _swap,
    "rotate": _rotate,
    "old": _old,
    "scan": _scan,
    "decay": lambda w, x, i, j, c: _set(w.state(i), w.state(i) * c + cr.tanh(w.value(j)) * (1 - c)),
    "mix": lambda w, x, i, j, c: _set(w.state(i), cr.tanh(w.value(j) - w.state(i) * x)),
    "same": lambda w, x, i, j, c: _set(w.state(i), w.state(j)),
    "argument": lambda w, x, i, j, c: _set(w.state(i), x),
    "zeros": lambda w, x, i, j, c: _set(w.state(i), cr.zeros_like(w.state(i))),
    "backwards": lambda w, x, i, j, c: _set(w.state(i), w.state(j)[::-1] if x.ndim else w.state(j)),
    "turned": lambda w, x, i, j, c: _set(w.state(i), w.state(j).mT if x.ndim > 1 else w.state(j)),
    "rolled": lambda w, x, i, j, c: _set(w.state(i), cr.roll(w.state(i), 1, axis=0) * c if x.ndim else w.state(i)),
    "row": lambda w, x, i, j, c: _set(w.state(i), cr.index_update(w.state(i), 0, c) if x.ndim else x),
    "product": lambda w, x, i, j, c: _set(w.state(i), cr.tanh((w.state(i) @ w.value(j) / w.plan.shape[0] if x.ndim else w.value(j)) * x)),
    "running": lambda w, x, i, j, c: _set(w.state(i), cr.tanh(cr.cumulative_sum(w.state(j), axis=0)) if x.ndim else x),
    "sorted": lambda w, x, i, j, c: _set(w.state(i), cr.sort(w.state(j), axis=0) if x.ndim and x.size < 1000 else x),
    "centred": lambda w, x, i, j, c: _set(w.state(i), cr.tanh(w.state(i) - cr.mean(w.state(j)))),
    "chosen": lambda w, x, i, j, c: _set(w.state(i), cr.cond(cr.sum(w.state(j)) > 0, lambda a, b: a * 0.5, lambda a, b: b, w.state(i), w.value(j))),
    "give": lambda w, x, i, j, c: [w.value(i)],
    "give detached": lambda w, x, i, j, c: [w.value(i).detach()],
    "give part": lambda w, x, i, j, c: [w.value(i)[1:] if x.ndim else w.value(i), w.value(i).mT if x.ndim > 1 else x],
    "give twice": lambda w, x, i, j, c: [y := w.value(i) * c, y],
    "give argument": lambda w, x, i, j, c: [x],
    "give constant": lambda w, x, i, j, c: [cr.ones(3)],
}


def _feed(w: World, x: Any) -> None:
    w.x = x


def _hold(w: World, x: Any) -> None:
    w.held.append(x)


def _forget(w: World, i: int, j: int) -> None:
    w.held = w.held[: i // 2]


def _no_gradients(w: World, i: int, j: int) -> None:
    for p in w.parameters:
        p.grad = None


BETWEEN: dict[str, Callable[[World, int, int], Any]] = {
    "hold results": lambda w, i, j: w.held.extend(w.out),
    "hold a result's array": lambda w, i, j: _hold(w, np.asarray(w.out[i % len(w.out)]) if w.out else 0),
    "hold a result's part": lambda w, i, j: _hold(w, w.out[i % len(w.out)][..., None] if w.out else 0),
    "hold an array": lambda w, i, j: _hold(w, np.asarray(w.any(i).detach())),
    "hold a view": lambda w, i, j: _hold(w, np.asarray(w.any(i).detach())[..., None].T),
    "hold a value": lambda w, i, j: _hold(w, w.any(i).detach()),
    "hold a gradient": lambda w, i, j: _hold(w, w.parameters[i % len(w.parameters)].grad if w.parameters else None),
    "forget": _forget,
    "feed an array": lambda w, i, j: _feed(w, w.array(i)),
    "feed a result": lambda w, i, j: _feed(w, next((x.detach() for x in w.out if x.shape == w.plan.shape), w.x)),
    "feed a value": lambda w, i, j: _feed(w, w.any(i).detach()),
    "feed a state": lambda w, i, j: _feed(w, w.state(i)),
    "assign an array": lambda w, i, j: _set(w.any(i), w.array(j)),
    "assign another": lambda w, i, j: _set(w.any(i), w.any(j).detach()),
    "assign a result": lambda w, i, j: _set(w.any(i), next((x.detach() for x in w.out if x.shape == w.plan.shape), w.any(i).detach())),
    "no gradients": _no_gradients,
    "by hand": lambda w, i, j: None,
}


def wrong(plan: Plan) -> str:
    """What goes otherwise compiled; nothing if all is right."""
    plain, compiled = World(plan, compiled=False), World(plan, compiled=True)
    for turn in range(plan.calls):
        plain.call(turn)
        compiled.call(turn)
        wanted, got = plain.seen(), compiled.seen()
        if len(wanted) != len(got):
            return f"call {turn}: {len(got)} values, not {len(wanted)}"
        for k, (one, other) in enumerate(zip(got, wanted, strict=True)):
            if (one is None) != (other is None):
                return f"call {turn}, value {k}: {'no' if one is None else 'a'} gradient"
            if one is None:
                continue
            one, other = (np.asarray(x.detach() if isinstance(x, Tensor) else x) for x in (one, other))
            if one.shape != other.shape or not np.allclose(one, other, rtol=1e-6, atol=1e-8):
                return f"call {turn}, value {k} of {len(wanted)}: {one.ravel()[:4]}, not {other.ravel()[:4]}"
    for world in (plain, compiled):
        if any(not any(np.array_equal(x, y) for y in world.given) for x in world.arrays):
            return "the caller's own array was changed"
    return ""


def fuzz(first: int, count: int) -> list[str]:
    """What goes wrong for so many seeds."""
    found: list[str] = []
    before = emit.SMALL
    for seed in range(first, first + count):
        plan = Plan(seed)
        emit.SMALL = -1 if seed % 3 == 0 else before
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                said = wrong(plan)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            emit.SMALL = before
        if said:
            found.append(f"{plan}\n{said}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    os.environ.setdefault("CHAINRULE_CACHE_DIR", "0")
    began = time.perf_counter()
    found = fuzz(chosen.seed, chosen.count)
    sys.stdout.write("".join(f"{one}\n\n" for one in found))
    sys.stdout.write(f"{chosen.count} steps, {len(found)} findings, {time.perf_counter() - began:.0f} s\n")


if __name__ == "__main__":
    main()
