"""One offline HTML file in which a program can be stepped through, gate by gate: `explore`.

Here the function is traced and run once, and the data are put into the page. What the data are is `data`'s business, and
what the page does with them is that of the files in `page/`.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

from chainrule.core import tree
from chainrule.core.errors import ArgumentError, GradientError
from chainrule.core.files import write_whole
from chainrule.core.primitive import functions, public
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, State
from chainrule.graph.naming import unnamed
from chainrule.graph.trace import trace
from chainrule.tensor import Tensor
from chainrule.view.explorer.data import Data, Facts, page_data
from chainrule.view.explorer.live import recompute
from chainrule.view.explorer.packing import packed
from chainrule.view.explorer.run import output_of, run
from chainrule.view.source import Listing, listed

MARKS = ("TITLE", "STYLE", "DATA", "RECOMPUTE", "SCRIPT")
SCRIPTS = (
    "facts",
    "layout",
    "graph",
    "overlays",
    "paint",
    "marks",
    "camera",
    "code",
    "panel",
    "jacobian",
    "tensors",
    "why",
    "routes",
    "live",
    "steps",
    "tools",
    "tables",
    "keys",
)
"""The page's JavaScript, in the order in which it is put together."""


@public
def explore(
    f: Callable[..., Any], /, *inputs: Any, path: str | PathLike[str] = "explore.html", wrt: Sequence[str] | None = None, title: str | None = None
) -> Path:
    """Write a page that shows how a function and its gradient are computed, gate by gate.

    The page is one file, which needs no server and no network: open it in any browser of 2024 or later.

    Parameters
    ----------
    f : callable
        Returns one real scalar; of several results the first is differentiated.
    *inputs : Tensor, array_like or containers of them
        Its arguments.
    path : path-like
        The file that is written; one that is there is replaced.
    wrt : sequence of str, optional
        Names of arguments to differentiate by. If not given, all tensors that require a gradient, among the arguments or taken from
        outside, such as parameters of layers; if there are none, all real floating-point arguments.
    title : str, optional
        The page's heading; the function's name if not given.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    GradientError
        If the first result is not one real scalar, or depends on nothing that is differentiated.
    ArgumentError
        If ``wrt`` names no argument.
    MissingExtraError
        Without Graphviz, which lays out the graph: ``pip install 'chainrule[view]'``.
    DataError
        If the file cannot be written; one that was there is as it was.

    Notes
    -----
    Gradients in the page are the library's own, of one run on these inputs. Beside them stands a central difference,
    (f(x + h) - f(x - h)) / 2h with h = 1e-5 max(1, abs(x)), in float64, for tensors of up to 64 elements.

    Examples
    --------
    >>> import chainrule as cr
    >>> def neuron(w, x):
    ...     return 1 / (1 + cr.exp(-w * x))
    >>> cr.explore(neuron, 2.0, -1.0, path="neuron.html").name  # doctest: +SKIP
    'neuron.html'
    """
    target = Path(path)
    write_whole(target, page(*explored(f, *inputs, wrt=wrt, title=title)).encode())
    return target


def explored(f: Callable[..., Any], /, *inputs: Any, wrt: Sequence[str] | None = None, title: str | None = None) -> tuple[Data, str | None]:
    """The data of the page for a function and its arguments, and its function that computes them again, where there is one."""
    traced = trace(f, *inputs)
    output_of(traced)
    leaves = tree.leaves(inputs)
    kinds = _kinds(traced, leaves, wrt)
    arguments = [functions.asarray(leaf, dtype=x.dtype) for leaf, x in zip(leaves, traced.parameters, strict=True)]
    given = [*arguments, *traced.read()]
    listing = _listed(traced, [x.name for x in traced.inputs if kinds[x] != "data"])
    graph = _forward(traced, listing)
    done = run(graph, given, [kinds[x] != "data" for x in traced.inputs])
    facts = Facts(done, dict(zip(graph.inputs, kinds.values(), strict=True)), listing, traced)
    live = recompute(facts)
    return page_data(facts, f, title, live=live is not None), live


def _listed(traced: Graph, wrt: Sequence[str]) -> Listing:
    """The statements of the first result and its gradient; a result without a name is called after the function."""
    _, one = tree.flatten(0.0)
    listing = listed(replace(traced, outputs=(output_of(traced),), results=one, statics={}, updated=(), cleared=()), wrt=wrt, whole=True)
    output, names = listing.values[0], dict(listing.names)
    if unnamed(output) and traced.name.isidentifier() and not {traced.name, f"grad_{traced.name}"} & {*names.values()}:
        own = listing.reached.get(output)
        if own is not None and names.get(own) == f"grad_{names[output]}":
            names[own] = f"grad_{traced.name}"
        names[output] = traced.name
    return replace(listing, names=names)


def _forward(traced: Graph, listing: Listing) -> Graph:
    """The forward statements alone, which read what the function reads."""
    used = {*listing.values, *(x for node in listing.forward for x in node.inputs)}
    constants = {x: value for x, value in listing.graph.constants.items() if x in used}
    _, one = tree.flatten(0.0)
    own, inputs = traced.captured, listing.graph.inputs
    return Graph(traced.name, inputs, listing.forward, listing.values, constants, traced.arguments, one, {}, own, absent=traced.absent)


def _kinds(graph: Graph, leaves: Sequence[Any], wrt: Sequence[str] | None) -> dict[Variable, str]:
    """What each input is: differentiated as an argument, differentiated as a parameter, or data."""
    outside = dict(zip(graph.inputs[len(graph.parameters) :], graph.captured, strict=True))
    parameters = {x for x, source in outside.items() if isinstance(source, State) and source.tensor.requires_grad and x.dtype.kind == "f"}
    real = [x for x in graph.parameters if x.dtype.kind == "f"]
    if wrt is not None:
        chosen = {x for x in real if any(x.name == name or x.name.startswith(f"{name}_") for name in wrt)}
        unknown = [name for name in wrt if not any(x.name == name or x.name.startswith(f"{name}_") for x in real)]
        if unknown:
            says = f"{graph.name} has no real floating-point argument {unknown[0]!r}"
            raise ArgumentError(says, mend=f"choose among {', '.join(x.name for x in real) or 'none'}")
    else:
        required = {x for x, leaf in zip(graph.parameters, leaves, strict=True) if isinstance(leaf, Tensor) and leaf.requires_grad}
        chosen = required or (set() if parameters else set(real))
    if not chosen and not parameters:
        raise GradientError(f"{graph.name} has nothing to differentiate by", mend="give it floating-point arguments, such as 1.0")
    return {x: "input" if x in chosen else "parameter" if x in parameters else "data" for x in graph.inputs}


def page(data: Data, live: str | None = None) -> str:
    """The page as text."""
    own = files(__package__ or "chainrule.view.explorer").joinpath("page")
    parts = {
        "TITLE": html.escape(data["title"]),
        "STYLE": own.joinpath("page.css").read_text(encoding="utf-8"),
        "DATA": packed(data).replace("</", "<\\/"),
        "RECOMPUTE": (live or "const recompute = null;").replace("</", "<\\/"),
        "SCRIPT": "\n".join(own.joinpath(f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS),
    }
    text = own.joinpath("page.html").read_text(encoding="utf-8")
    # Cut at all marks first: what is put in may look like one.
    for name in MARKS:
        text = text.replace(f"<!--{name}-->", f"\0{name}\0").replace(f"/*{name}*/", f"\0{name}\0")
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(text.split("\0")))
