"""Nested containers: tuples, lists, dicts and named tuples taken apart into leaves and put together.

`None` is a container without leaves; everything that is not a container is a leaf. Dictionaries
are walked in insertion order and rebuilt with the same keys. Recursion here follows how deeply
the caller nested containers, never the depth of a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from chainrule.core.errors import ArgumentError

# A tree's leaves may be anything, so Any is the honest type of a tree.
Tree = Any


@dataclass(frozen=True, slots=True)
class Structure:
    """How a tree is built, without its leaves; equal structures compare equal."""

    kind: type | None
    keys: tuple[Any, ...] = ()
    children: tuple[Structure, ...] = ()

    @property
    def leaf_count(self) -> int:
        return 1 if self.kind is None else sum(child.leaf_count for child in self.children)

    def rebuild(self, leaves: Iterable[Any]) -> Tree:
        """The tree of this structure with the given leaves, in order."""
        return _rebuild(self, iter(leaves))


_LEAF = Structure(None)


def flatten(tree: Tree) -> tuple[list[Any], Structure]:
    """Leaves in order, and the structure that `Structure.rebuild` puts them back into."""
    leaves: list[Any] = []
    return leaves, _flatten(tree, leaves)


def leaves(tree: Tree) -> list[Any]:
    """Leaves in order."""
    return flatten(tree)[0]


def map(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply ``function`` leaf by leaf; further trees must have the first one's structure.

    Examples
    --------
    >>> map(lambda a, b: a + b, {"w": 1, "b": (2, 3)}, {"w": 10, "b": (20, 30)})
    {'w': 11, 'b': (22, 33)}
    """
    first, structure = flatten(tree)
    columns = [first]
    for other in others:
        column, other_structure = flatten(other)
        if other_structure != structure:
            raise ArgumentError(
                f"two containers of different structure: {describe(structure)} and {describe(other_structure)}",
                mend="pass containers nested in the same way, with the same keys",
            )
        columns.append(column)
    return structure.rebuild(function(*row) for row in zip(*columns, strict=True))


def describe(structure: Structure) -> str:
    """The structure in Python's notation, a star for each leaf."""
    if structure.kind is None:
        return "*"
    if structure.kind is type(None):
        return "None"
    inside = [describe(child) for child in structure.children]
    if structure.keys:
        inside = [f"{key!r}: {child}" for key, child in zip(structure.keys, inside, strict=True)]
    opening, closing = {list: "[]", dict: "{}"}.get(structure.kind, "()")
    return opening + ", ".join(inside) + closing


def _flatten(tree: Tree, leaves: list[Any]) -> Structure:
    if tree is None:
        return Structure(type(None))
    kind = type(tree)
    if isinstance(tree, dict):
        return Structure(dict, tuple(tree), tuple(_flatten(child, leaves) for child in tree.values()))
    if kind in (tuple, list) or (isinstance(tree, tuple) and hasattr(kind, "_fields")):
        return Structure(kind, (), tuple(_flatten(child, leaves) for child in tree))
    leaves.append(tree)
    return _LEAF


def _rebuild(structure: Structure, leaves: Iterator[Any]) -> Tree:
    kind = structure.kind
    if kind is None:
        return next(leaves)
    if kind is type(None):
        return None
    children = [_rebuild(child, leaves) for child in structure.children]
    if kind is dict:
        return dict(zip(structure.keys, children, strict=True))
    return kind(*children) if hasattr(kind, "_fields") else kind(children)
