"""Optimizer: what turns gradients into steps.

All that changes from step to step (the learning rate, moments, the number of steps) is a Tensor, and a step is
written in gates, so that a traced step captures it. Parameters keep their identity: a step lets the
names stand for new values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from chainrule.core.aval import Dtype
from chainrule.core.errors import ArgumentError
from chainrule.core.interp import EVERYDAY, current, no_grad, settings, using
from chainrule.core.variable import Variable
from chainrule.ops.creation import asarray, astype
from chainrule.ops.gate import constant
from chainrule.tensor import Tensor, new


@runtime_checkable
class Growing(Protocol):
    """Parameters of which some may not exist yet, such as `Layer.parameters()` before the first call."""

    def available(self) -> tuple[list[Tensor], bool]:
        """Those that exist now, and whether they are all."""
        ...


Slots = dict[str, Tensor]
Check = Callable[[Mapping[str, Any]], None]


class Group:
    """Parameters that are stepped with the same options.

    ``group["lr"]`` reads an option, ``group["lr"] = 0.1`` sets it.

    Parameters
    ----------
    parameters : iterable of Tensor, or ``layer.parameters()``
    options : mapping of str to value
    check : callable, optional
        Refuses options that make no sense; called with all of them whenever one is to change.

    Examples
    --------
    >>> import chainrule as cr
    >>> (group,) = cr.optim.SGD([cr.tensor([1.0], requires_grad=True)], lr=0.1).groups
    >>> group["lr"] = 0.01
    >>> group["lr"], len(group.parameters)
    (0.01, 1)
    """

    def __init__(self, parameters: Iterable[Tensor] | Growing, options: Mapping[str, Any], check: Check | None = None) -> None:
        self._source = parameters if isinstance(parameters, Growing) else None
        self._known: list[Tensor] = [] if isinstance(parameters, Growing) else [_parameter(x) for x in _listed(parameters)]
        self._rate = new(np.array(0.0))
        self._check = check
        self._options: dict[str, Any] = dict.fromkeys(options)
        self._set(options)
        self._stale = False

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that exist now."""
        if self._source is not None:
            self._known, complete = self._source.available()
            if complete:
                self._source = None
        return self._known

    @property
    def rate(self) -> Tensor:
        """The learning rate as a Tensor, which a compiled step reads anew each time."""
        return self._rate

    def __getitem__(self, name: str) -> Any:
        return self._rate.item() if name == "lr" else self._options[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self._options:
            raise ArgumentError(f"no option {name!r}", mend=f"choose one of {', '.join(self._options)}")
        if name == "lr":
            check_at_least("lr", value, 0)
            # In a step that is traced it is a part of the step.
            with using(EVERYDAY if current().tracer is None else current()):
                self._rate.assign(np.float64(value))
        else:
            self._set({own: self._options[own] for own in self if own != "lr"} | {name: value})

    def _set(self, options: Mapping[str, Any]) -> None:
        if self._check is not None:
            self._check(options)
        for name, value in options.items():
            if name != "lr":
                self._options[name] = value
            else:
                self["lr"] = value
        # With other options, other things may have to be remembered from step to step.
        self._stale = True
        settings.version += 1

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def with_options(self, options: Mapping[str, Any]) -> Group:
        """A group without parameters that has these options, and else those of this one."""
        unknown = next((name for name in options if name not in self._options), None)
        if unknown is not None:
            raise ArgumentError(f"no option {unknown!r}", mend=f"choose one of {', '.join(self)}")
        # JSON knows no tuples.
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
        return Group((), {**{name: self[name] for name in self}, **given}, self._check)

    def take_options(self, other: Group) -> None:
        """Let the options be those of another group."""
        self._set({name: other[name] for name in other})
        self._stale = False


class Optimizer(ABC):
    """Base of the optimizers.

    Parameters
    ----------
    parameters : iterable of Tensor, ``layer.parameters()``, or sequence of dict
        Leaves that require a gradient. A dict holds some under "params", and options of its own for them.
    options
        "lr", the learning rate, and what the method needs besides.

    Attributes
    ----------
    groups : list of Group

    Examples
    --------
    A method of one's own says how one parameter is stepped; ``begin`` gives what it remembers between steps.

    >>> import chainrule as cr
    >>> class Signs(cr.optim.Optimizer):
    ...     def begin(self, parameter, group):
    ...         return {}
    ...
    ...     def update(self, parameter, gradient, lr, slots, group):
    ...         return parameter - lr * cr.sign(gradient)
    >>> w = cr.tensor([1.0, -1.0], requires_grad=True)
    >>> (w * w).sum().backward()
    >>> Signs([w], lr=0.25).step(); w
    tensor([ 0.75, -0.75], requires_grad=True)
    """

    def __init__(self, parameters: Iterable[Tensor] | Growing | Sequence[Mapping[str, Any]], **options: Any) -> None:
        given: Any = parameters if isinstance(parameters, Growing) else _listed(parameters)
        if isinstance(given, list) and any(isinstance(entry, Mapping) for entry in given):
            self.groups = [self._group(entry, options) for entry in given]
        else:
            self.groups = [Group(given, options, self.check)]
        self._slots: dict[int, Slots] = {}
        self._distinct()
        if given == []:
            raise ArgumentError("the optimizer has no parameters", mend="pass model.parameters()")

    def _group(self, entry: Any, options: Mapping[str, Any]) -> Group:
        own = {name: value for name, value in entry.items() if name != "params"} if isinstance(entry, Mapping) else {}
        unknown = [name for name in own if name not in options]
        if not isinstance(entry, Mapping) or "params" not in entry or unknown:
            what = f"no option {unknown[0]!r}" if unknown else "a group without 'params'"
            raise ArgumentError(f"{type(self).__name__}: {what}", mend=f"a group has 'params' and any of {', '.join(options)}")
        return Group(entry["params"], {**options, **own}, self.check)

    def _distinct(self) -> None:
        listed = [id(parameter) for group in self.groups for parameter in group.parameters]
        if len(set(listed)) < len(listed):
            raise ArgumentError("a parameter is given to the optimizer twice", mend="list each parameter in one group only")

    @staticmethod  # noqa: B027, a method may have nothing to refuse
    def check(options: Mapping[str, Any]) -> None:
        """Refuse options that the method cannot step with; "lr" is looked at already."""

    @property
    def lr(self) -> float:
        """The learning rate; setting it sets that of all groups."""
        return self.groups[0]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        for group in self.groups:
            group["lr"] = value

    @abstractmethod
    def begin(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        """What is remembered of a parameter from step to step: names and first values."""

    @abstractmethod
    def update(self, parameter: Tensor, gradient: Tensor, lr: Tensor, slots: Slots, group: Group) -> Tensor:
        """The parameter's next value; assigns the slots theirs."""

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Move every parameter that has a gradient.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss and the gradients anew; called before the step. `LBFGS` needs one.

        Returns
        -------
        Tensor or None
            The loss that the closure returned.
        """
        loss = None if closure is None else closure()
        if any(group._source is not None for group in self.groups):
            self._distinct()
        moved: list[tuple[Tensor, Tensor]] = []
        tracer = current().tracer
        if tracer is not None:
            tracer.depends(self, type(self).__name__)
        for number, group in enumerate(self.groups):
            if tracer is not None:
                tracer.depends(group, f"group {number} of {type(self).__name__}")
                tracer.call(group.rate, f"lr_{number}" if number else "lr")
            self._settle(group)
            rates: dict[Dtype, Tensor] = {}
            for parameter in group.parameters:
                gradient = parameter.grad
                if gradient is None:
                    continue
                dtype = parameter.dtype
                if dtype not in rates:
                    rates[dtype] = astype(group.rate, dtype, copy=False)
                # Detached, a step has no history and needs no no_grad, under which gates take their longer way.
                value = self.update(parameter.detach(), gradient.detach(), rates[dtype], self._slots_of(parameter, group), group)
                moved.append((parameter, value))
        with no_grad():
            for parameter, value in moved:
                parameter.assign(value)
        return loss

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for group in self.groups:
            for parameter in group.parameters:
                parameter.grad = None

    def _slots_of(self, parameter: Tensor, group: Group) -> Slots:
        key, dtype = id(parameter), parameter.dtype
        if key not in self._slots:
            self._slots[key] = self._begun(parameter, group)
        slots = self._slots[key]
        for name, slot in slots.items():
            if slot.dtype != dtype and slot.dtype.kind == dtype.kind:
                # The parameter was converted since.
                slots[name] = new(np.asarray(slot._value, dtype))
        tracer = current().tracer
        if tracer is not None:
            for name, slot in slots.items():
                tracer.call(slot, f"{tracer.seen(parameter)._value.name}_{name}")
        return slots

    def _begun(self, parameter: Tensor, group: Group) -> Slots:
        # They are values even where the first step is being traced, unless the parameter itself is made there.
        with using(current() if isinstance(parameter._value, Variable) else EVERYDAY):
            return {name: constant(np.asarray(value)) for name, value in self.begin(parameter, group).items()}

    def _settle(self, group: Group) -> None:
        """After a change of options, remember what they need, and nothing else; what is needed still stays as it is."""
        if not group._stale:
            return
        for parameter in group.parameters:
            if id(parameter) in self._slots:
                held = self._slots[id(parameter)]
                self._slots[id(parameter)] = {name: held.get(name, first) for name, first in self._begun(parameter, group).items()}
        group._stale = False

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on besides the parameters and gradients: a snapshot.

        Returns
        -------
        dict
            "state": for the position of every parameter that was stepped, its slots by name; "groups": the
            options of each group.
        """
        for group in self.groups:
            self._settle(group)
        everything = [parameter for group in self.groups for parameter in group.parameters]
        slots = {str(i): self._slots[id(p)] for i, p in enumerate(everything) if id(p) in self._slots}
        return {
            "state": {place: {name: value.detach() for name, value in held.items()} for place, held in slots.items()},
            "groups": [{name: group[name] for name in group} for group in self.groups],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned.

        Raises
        ------
        ArgumentError
            If groups, parameters or slots do not correspond, or options make no sense; nothing is loaded then.
        """
        groups, held = self._parts(state)
        # What belongs to a parameter depends on the options that are loaded with it.
        loaded = [group.with_options(options) for group, options in zip(self.groups, groups, strict=True)]
        owners = [(parameter, options) for group, options in zip(self.groups, loaded, strict=True) for parameter in group.parameters]
        places = {str(place): owner for place, owner in enumerate(owners)}
        fresh: dict[int, Slots] = {}
        for place, values in held.items():
            if str(place) not in places:
                raise ArgumentError(f"the state is of parameter {place}, but there are {len(owners)}", mend="make model and optimizer as they were")
            parameter, group = places[str(place)]
            first = {name: np.asarray(value) for name, value in self.begin(parameter, group).items()}
            given = {name: asarray(value, dtype=first[name].dtype if name in first else None) for name, value in values.items()}
            wanted, found = ({name: value.shape for name, value in slots.items()} for slots in (first, given))
            if wanted != found:
                raise ArgumentError(f"parameter {place} needs the state {wanted}, not {found}", mend="make model and optimizer as they were")
            fresh[id(parameter)] = {name: new(np.asarray(value._value)) for name, value in given.items()}
        for group, options in zip(self.groups, loaded, strict=True):
            group.take_options(options)
        self._slots = fresh
        settings.version += 1

    def _parts(self, state: Any) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, Mapping[str, Any]]]:
        """Groups and slots of a state, if it has them."""
        groups: Any
        held: Any
        groups, held = (state.get(part) for part in ("groups", "state")) if isinstance(state, Mapping) else (None, None)
        tables = [*groups, *held.values()] if isinstance(groups, list | tuple) and isinstance(held, Mapping) else [None]
        if not all(isinstance(table, Mapping) for table in tables):
            raise ArgumentError(f"{type(self).__name__}: this is no optimizer's state", mend="pass what state_dict() returned")
        if len(groups) != len(self.groups):
            raise ArgumentError(
                f"the state has {len(groups)} groups, {type(self).__name__} has {len(self.groups)}", mend="make the optimizer as it was"
            )
        return groups, held

    # Slots are found by the identity of their parameter, which a copy does not have.

    def __getstate__(self) -> dict[str, Any]:
        stepped = [p for group in self.groups for p in group.parameters if id(p) in self._slots]
        return {**self.__dict__, "_slots": [(p, self._slots[id(p)]) for p in stepped]}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._slots = {id(parameter): slots for parameter, slots in state["_slots"]}

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={self.groups[0][name]!r}" for name in self.groups[0])
        return f"{type(self).__name__}({options})"


def check_at_least(name: str, value: Any, least: float) -> None:
    """Refuse an option that is too small or not finite."""
    if not _within(least, value, np.inf):
        raise ArgumentError(f"{name}={value!r}", mend=f"it must be a finite number, at least {least}")


def check_share(name: str, value: Any) -> None:
    """Refuse an option outside of [0, 1)."""
    if not _within(0, value, 1):
        raise ArgumentError(f"{name}={value!r}", mend="it must be at least 0 and less than 1")


def check_betas(betas: Any) -> None:
    """Refuse what is not two shares."""
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise ArgumentError(f"betas={betas!r}", mend="give two numbers, each at least 0 and less than 1")
    for beta in betas:
        check_share("betas", beta)


def _within(least: float, value: Any, limit: float) -> bool:
    try:
        return bool(least <= value < limit)
    except (TypeError, ValueError):
        return False


def _listed(parameters: Any) -> list[Any]:
    if isinstance(parameters, Tensor) or not isinstance(parameters, Iterable):
        raise ArgumentError(
            f"an optimizer steps a list of parameters, not a {type(parameters).__name__}", mend="pass model.parameters(), or a list of tensors"
        )
    return list(parameters)


def _parameter(x: Any) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_leaf or not x.requires_grad:
        kind = "tensor that requires no gradient" if isinstance(x, Tensor) and x.is_leaf else "computed tensor"
        got = f"a {kind}, of shape {x.shape}" if isinstance(x, Tensor) else type(x).__name__
        raise ArgumentError(
            f"an optimizer steps leaves that require a gradient, not {got}", mend="pass model.parameters(), or tensors made with requires_grad=True"
        )
    return x
