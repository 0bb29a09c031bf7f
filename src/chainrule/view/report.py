"""The report of a training run: one HTML file that needs nothing else, not even a network or a script.

It shows what stands in the run folder (metrics.jsonl, watch.jsonl, units.jsonl) as it stands there, and what one look at the network's graph
gives: where operations, time and bytes go, which units are dead, its picture, and flat code. The graph is made by the caller, who
knows the model; nothing here trains, and nothing here knows a layer.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from time import perf_counter
from typing import Any

from chainrule.autodiff.cost import floating_operations
from chainrule.core import tree
from chainrule.core.errors import ChainruleError, DataError, MissingExtraError
from chainrule.core.files import write_whole
from chainrule.core.interp import no_grad
from chainrule.core.size import show_bytes
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation
from chainrule.tape import bind
from chainrule.training.picture import draw as curves
from chainrule.training.run import Record, RunFolder
from chainrule.training.watch import FILE as WATCHED
from chainrule.view.draw import draw
from chainrule.view.palettes import LINES, PALETTES
from chainrule.view.source import Listing, listed, source
from chainrule.view.units import FILE as UNITS
from chainrule.view.units import dead_units, values_of

FILE = "report.html"
"""Its name in a run folder."""
_SHORT = 60
"""Lines of flat code of a whole network that are still read; of a longer one only one layer is shown."""


_RUNS = 4


@dataclass(frozen=True)
class LayerFacts:
    """What the caller knows of a layer: its path in the model, its class, its output's shape, and its own parameters."""

    path: str
    kind: str
    output: str
    parameters: int
    parameter_bytes: int


def write_report(run: str | Path, graph: Graph, step: Graph, examples: Sequence[Any], layers: Sequence[LayerFacts]) -> Path:
    """Write the report of a run into its folder.

    Parameters
    ----------
    run : path
        The run folder.
    graph : Graph
        From a batch to the loss, as in evaluation; its operations' scopes are the layers' paths.
    step : Graph
        The same as in training, for operations, time and bytes.
    examples : sequence of array_like
        A batch, on which time and dead units are measured.
    layers : sequence of LayerFacts
        All that are to be named, in the order of the table.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    DataError
        If there is no run folder, or its metrics are damaged.
    """
    folder = RunFolder.open(run)
    config, records = folder.read_config(), folder.read_metrics()
    watched, counted = _lines(folder.path / WATCHED, "gradients and updates"), _lines(folder.path / UNITS, "dead units over the epochs")
    epochs = [record for record in records if record["kind"] == "epoch"]
    costs = _Costs(step, examples, [layer.path for layer in layers])
    parts = [
        _head(folder.path.name, config, epochs, layers),
        _curves(records, epochs, folder.path.name),
        _gradients(watched),
        _dead(graph, examples, counted),
        _layers(layers, costs, examples),
        _picture(graph),
        _code(graph, layers, costs),
    ]
    body = "\n".join(part for part in parts if part)
    title = escape(f"Run {folder.path.name}")
    page = '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n'
    path = folder.path / FILE
    write_whole(path, f"{page}<title>{title}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n".encode())
    return path


def _lines(path: Path, what: str) -> list[dict[str, Any]]:
    """What stands in a file of the run folder, a line per epoch; nothing if it is not there."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}", mend=f"remove it; then the report goes without {what}") from None


def _style() -> str:
    """The page's rules, and colours by name for light and dark; the picture's own colours change with the page's."""
    light, dark = asdict(PALETTES["board"]), asdict(PALETTES["dark"])
    names = [":root { color-scheme: light dark; " + _variables(light) + " }"]
    names += ["@media screen and (prefers-color-scheme: dark) {", "  :root { " + _variables(dark) + " }"]
    names += [f'  .picture [{what}="{color}"] {{ {what}: var(--{name}) }}' for name, color in light.items() for what in ("fill", "stroke")]
    return "\n".join([*names, "}", Path(__file__).with_name("report.css").read_text(encoding="utf-8")])


def _variables(colors: Mapping[str, str]) -> str:
    return "; ".join(f"--{name}: {color}" for name, color in colors.items())


def _plot(page: str) -> dict[str, str]:
    """The colours of the curves on a light or a dark page."""
    colors, (train, held) = PALETTES["board" if page == "light" else page], LINES[page]
    return {"page": colors.box, "ink": colors.ink, "soft": colors.soft, "grid": colors.wash, "axis": colors.line, "train": train, "held": held}


def _head(name: str, config: Mapping[str, Any], epochs: Sequence[Record], layers: Sequence[LayerFacts]) -> str:
    last = epochs[-1] if epochs else {}
    told = {_words(key): value for key, value in last.items() if key.startswith("validation_")}
    facts = {
        **{key: _number(value, key) for key, value in told.items()},
        "epochs": str(last.get("epoch", 0)),
        "seconds": _number(last.get("seconds"), "seconds"),
        "parameters": f"{sum(layer.parameters for layer in layers):,}",
    }
    items = "".join(f"<li><b>{escape(value)}</b><span>{escape(key)}</span></li>" for key, value in facts.items())
    rate = config["optimizer"]["groups"][0].get("lr")
    what = " ".join(str(x) for x in (config.get("network"), f"on {config['data']}" if "data" in config else None) if x)
    optimizer = f"{config['optimizer']['name']}, learning rate {rate:g} at first"
    line = "; ".join(filter(None, [what, optimizer, f"batches of {config['batch_size']}, seed {config['seed']}"]))
    return f'<h1>Run {escape(name)}</h1>\n<p class="soft">{escape(line)}</p>\n<ul class="facts">{items}</ul>'


def _curves(records: Sequence[Record], epochs: Sequence[Record], name: str) -> str:
    # As an image of its own, so that its style does not reach the page's.
    data = b64encode(curves(records, name, _plot("light"), _plot("dark")).encode()).decode()
    names = [key for key in (epochs[-1] if epochs else {}) if key not in ("kind", "step")]
    rows = [[str(record["epoch"]), *(_number(record.get(key), key) for key in names[1:])] for record in epochs]
    picture = f'<img class="curves" alt="Loss and metrics over the epochs; the table below holds the numbers" src="data:image/svg+xml;base64,{data}">'
    return f'<h2>Curves</h2>\n<div class="wide" tabindex="0">{picture}</div>\n{_table([_words(key) for key in names], rows)}'


def _words(key: str) -> str:
    return key.replace("validation_", "held-out ").replace("_", " ")


def _gradients(watched: Sequence[Mapping[str, Any]]) -> str:
    if not watched:
        return ""
    names = list(watched[-1]["parameters"])
    series = {(name, what): [line["parameters"].get(name, {}).get(what) for line in watched] for name in names for what in ("gradient", "update")}
    spans = {what: _span([x for name in names for x in series[name, what]]) for what in ("gradient", "update")}
    rows = [
        [
            escape(name),
            *(cell for what in ("gradient", "update") for cell in (_general(series[name, what][-1]), _spark(series[name, what], *spans[what], what))),
        ]
        for name in names
    ]
    head = ["parameter", "gradient norm", "over the epochs", "update / parameter", "over the epochs"]
    says = (
        "Each in the middle step of an epoch: the norm of the gradient that the optimizer was given, and the norm of its step over that of "
        "the parameter before it; the numbers are the last epoch's. Lines of a column share one logarithmic scale: "
        f"gradients {spans['gradient'][0]:.1e} to {spans['gradient'][1]:.1e}, updates {spans['update'][0]:.1e} to {spans['update'][1]:.1e}. "
        "An update near a thousandth of the parameter is usual."
    )
    return f'<h2>Gradients and updates</h2>\n<p class="soft">{says}</p>\n{_table(head, rows, raw=True)}'


def _span(values: Sequence[float | None]) -> tuple[float, float]:
    there = [x for x in values if x]
    return (min(there), max(there)) if there else (1.0, 1.0)


def _spark(values: Sequence[float | None], low: float, high: float, kind: str) -> str:
    """A line over the epochs on a logarithmic scale."""
    spread = math.log(high / low) or 1.0
    return _line([math.log(x / low) / spread if x else None for x in values], kind)


def _line(heights: Sequence[float | None], kind: str) -> str:
    """A small line of heights between 0 and 1, one per epoch."""
    wide, tall, edge = 150, 26, 4
    across = (wide - 2 * edge) / max(len(heights) - 1, 1)
    points = [(edge + i * across, tall - edge - height * (tall - 2 * edge)) for i, height in enumerate(heights) if height is not None]
    line = f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>' if len(points) > 1 else ""
    dot = f'<circle cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="2.5"/>' if points else ""
    return f'<svg class="spark {kind}" viewBox="0 0 {wide} {tall}" width="{wide}" height="{tall}" aria-hidden="true">{line}{dot}</svg>'


class _Costs:
    """Operations, time and bytes of a graph, by the layer that they belong to; "" is what belongs to none."""

    def __init__(self, graph: Graph, examples: Sequence[Any], paths: Sequence[str]) -> None:
        self._paths = set(paths)
        self.operations = Counter[str]()
        self.bytes = Counter[str]()
        for node in graph.nodes:
            self.operations[self.owner(node)] += floating_operations(node)
            self.bytes[self.owner(node)] += sum(x.nbytes for x in node.outputs)
        listing, values = listed(graph), values_of(graph, examples)
        runs = [self._run(listing, values) for _ in range(_RUNS)]
        # The shortest of several, for other programs run on the same machine.
        self.forward, self.backward = (defaultdict(float, {path: min(run[half][path] for run in runs) for path in runs[0][half]}) for half in (0, 1))

    def owner(self, node: Operation) -> str:
        path = ".".join(node.scope)
        while path and path not in self._paths:
            path = path.rpartition(".")[0]
        return path

    def seconds(self, path: str) -> float:
        """Forward and backward."""
        return self.forward[path] + self.backward[path]

    def _run(self, listing: Listing, values: Sequence[Any]) -> tuple[defaultdict[str, float], defaultdict[str, float]]:
        """The seconds of the forward and the backward pass, by layer."""
        forward: defaultdict[str, float] = defaultdict(float)
        backward: defaultdict[str, float] = defaultdict(float)
        # A backward step belongs to the layer of its forward gate.
        steps = [(listing.steps.get(node.outputs[0], node), backward) for node in listing.backward]
        nodes = iter([*((node, forward) for node in listing.forward), *steps])

        def timed(*gate: Any) -> Any:
            node, spent = next(nodes)
            start = perf_counter()
            out = bind(*gate)
            spent[self.owner(node)] += perf_counter() - start
            return out

        with no_grad():
            listing.graph.apply(values, timed)
        return forward, backward


def _layers(layers: Sequence[LayerFacts], costs: _Costs, examples: Sequence[Any]) -> str:
    rest = LayerFacts("", "loss", "", 0, 0)
    shown = [layer for layer in layers if layer.path and (layer.parameters or costs.seconds(layer.path) or not _holds(layer, layers))]
    whole = (sum(costs.forward.values()) + sum(costs.backward.values())) or 1.0
    rows = [
        [
            escape(layer.path or "(outside)"),
            escape(layer.kind),
            escape(layer.output).replace("), ", "),<br>"),
            f"{layer.parameters:,}",
            show_bytes(layer.parameter_bytes),
            f"{costs.operations[layer.path]:,}",
            show_bytes(costs.bytes[layer.path]),
            f"{costs.forward[layer.path] * 1e3:.3g}",
            f"{costs.backward[layer.path] * 1e3:.3g}",
            f'<span class="bar" style="width: {costs.seconds(layer.path) / whole * 6:.2f}rem"></span>',
        ]
        for layer in [*shown, rest]
    ]
    head = ["layer", "kind", "output", "parameters", "bytes", "FLOPs", "bytes written", "forward, ms", "backward, ms", ""]
    says = (
        f"Of one batch of {len(examples[-1])}, in training mode; outside of all layers stands the loss. FLOPs (a multiplication with an "
        "addition counts as two) and bytes written are those of the forward pass. Times are of eager runs, gate by gate, the shortest "
        "of each; a compiled step is faster."
    )
    return f'<h2>Time and memory per layer</h2>\n<p class="soft">{says}</p>\n{_table(head, rows, raw=True)}'


def _holds(layer: LayerFacts, layers: Sequence[LayerFacts]) -> bool:
    """Whether other layers stand inside of it."""
    return any(other.path.startswith(layer.path + ".") for other in layers)


def _dead(graph: Graph, examples: Sequence[Any], counted: Sequence[Mapping[str, Any]]) -> str:
    """Per elementwise gate that closes anywhere its dead units, at the end and over the epochs."""
    now = dead_units(graph, examples)
    # Of another graph, as a resumed run with other settings may have it, nothing is shown.
    lines = [line["gates"] for line in counted if [one["gate"] for one in line["gates"]] == [one.gate for one in now]]
    series = [[line[place]["dead"] / max(line[place]["units"], 1) for line in lines] for place in range(len(now))]
    shown = [place for place, one in enumerate(now) if one.closed or any(line[place]["closed"] for line in lines)]
    highest = max((share for place in shown for share in series[place]), default=0.0)
    rows = [
        [
            escape(one.layer or "(outside)"),
            escape(one.gate),
            f"{one.dead} of {one.units}",
            f"{one.dead / max(one.units, 1):.1%}",
            f"{one.closed:.1%}",
            *([_line(_straight(over, highest), "dead")] if lines else []),
        ]
        for one, over in ((now[place], series[place]) for place in shown)
    ]
    says = "Units whose gate has a local derivative of 0 for every example of one held-out batch (and every place of an image)."
    if not rows:
        return f'<h2>Dead units</h2>\n<p class="soft">{says} There is no gate that closed anywhere.</p>'
    head = ["layer", "gate", "dead units", "share", "elements closed", *(["share over the epochs"] if lines else [])]
    says += f" Lines share one scale, from 0 to {highest:.1%}." if lines else ""
    return f'<h2>Dead units</h2>\n<p class="soft">{says}</p>\n{_table(head, rows, raw=True)}'


def _straight(shares: Sequence[float], highest: float) -> list[float]:
    return [share / (highest or 1.0) for share in shares]


def _picture(graph: Graph) -> str:
    try:
        # In a page an SVG needs no namespace.
        svg = draw(graph, values=False, gradients=False, fold="all").svg.replace(' xmlns="http://www.w3.org/2000/svg"', "")
    except MissingExtraError as error:
        return f'<h2>The network</h2>\n<p class="soft">Not drawn: {escape(error.what)}; {escape(error.mend or "")}</p>'
    return f'<h2>The network</h2>\n<div class="wide picture">{svg}</div>'


def _code(graph: Graph, layers: Sequence[LayerFacts], costs: _Costs) -> str:
    """Flat code of the whole if it is short, else of the layer that takes longest among those that can be printed."""
    if len(graph.nodes) <= _SHORT // 6:
        candidates = [("The network and its gradient", graph)]
    else:
        slowest = sorted((layer for layer in layers if layer.parameters and layer.path), key=lambda layer: -costs.seconds(layer.path))
        candidates = [(f"{layer.path}, the slowest layer that has parameters, and its gradient", _part(graph, layer.path)) for layer in slowest[:3]]
    for title, part in candidates:
        try:
            code = source(part)
        except ChainruleError:
            continue
        says = f"{escape(title)}, gate by gate, in NumPy alone."
        return f'<h2>Flat code</h2>\n<p class="soft">{says}</p>\n<div class="wide code"><pre>{escape(code)}</pre></div>'
    return ""


def _part(graph: Graph, path: str) -> Graph:
    """What a layer computes, as a graph of its own."""
    nodes = [node for node in graph.nodes if (".".join(node.scope) + ".").startswith(path + ".")]
    made = {x for node in nodes for x in node.outputs}
    read = dict.fromkeys(x for node in nodes for x in node.inputs)
    inside = {id(node) for node in nodes}
    wanted = {x for node in graph.nodes if id(node) not in inside for x in node.inputs} | set(graph.outputs)
    inputs = tuple(x for x in read if x not in made and x not in graph.constants)
    outputs = tuple(x for node in nodes for x in node.outputs if x in wanted)
    return replace(
        graph,
        name=path.replace(".", "_"),
        inputs=inputs,
        nodes=tuple(nodes),
        outputs=outputs,
        constants={x: graph.constants[x] for x in read if x in graph.constants},
        arguments=_structure(inputs),
        results=tree.flatten(0.0)[1] if len(outputs) == 1 else _structure(outputs),
        statics={},
        captured=(),
        updated=(),
        cleared=(),
        absent=(),
    )


def _structure(variables: Sequence[Variable]) -> tree.Structure:
    return tree.flatten(tuple(0.0 for _ in variables))[1]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, raw: bool = False) -> str:
    """A table whose first column names the rows; with ``raw`` the cells are HTML already."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = [[cell if raw else escape(cell) for cell in row] for row in rows]
    body = "\n".join(f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in lines)
    return f'<div class="wide" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _number(value: float | None, name: str) -> str:
    if value is None:
        return "none"
    if name.endswith("accuracy"):
        return f"{value:.2%}"
    return _general(value)


def _general(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
