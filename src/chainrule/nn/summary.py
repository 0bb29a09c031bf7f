"""What a layer is made of, as a table: shapes, parameters, operations and bytes, layer by layer.

The layer is traced once, on shapes alone, as in evaluation; nothing is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chainrule.autodiff.cost import floating_operations, live_bytes
from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.interp import EVERYDAY, no_grad, using
from chainrule.core.size import show_bytes
from chainrule.graph.trace import GraphTracer, trace_with
from chainrule.tensor import Tensor

if TYPE_CHECKING:
    from chainrule.nn.layer import Layer


@dataclass(frozen=True)
class Row:
    """One layer of a `Summary`.

    Attributes
    ----------
    path : str
        Its name inside the whole; "" for the whole.
    kind : str
        The layer's class.
    output : str
        Shapes of what it returns, "" if it was not called.
    parameters, trainable : int
        How many numbers its own parameters hold, those of layers inside it not counted; shared ones count where they first stand.
    flops : int
        Floating-point operations of all calls of the layer, those of layers inside it not counted. A multiplication with an addition, as in
        a product or a convolution, counts as two, any other operation on an element as one.
    parameter_bytes, output_bytes : int
        Of its own parameters and buffers, and of what it returns.
    calls : int
        How often the layer is called.
    """

    path: str
    kind: str
    output: str
    parameters: int
    trainable: int
    flops: int
    parameter_bytes: int
    output_bytes: int
    calls: int


@dataclass(frozen=True)
class Summary:
    """A layer and all inside it, as a table that `print` shows.

    Attributes
    ----------
    name : str
    inputs : str
        The shapes for which shapes and operations hold.
    rows : tuple of Row
        Outer layers before inner ones.
    peak_bytes : int
        The most that is alive at once in one call without gradients, parameters included.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.nn.Sequential([cr.nn.Dense(4, activation="relu"), cr.nn.Dense(2)])
    >>> summary = model.summary((8, 3))
    >>> summary.parameters, summary.trainable, summary.flops
    (26, 26, 400)
    >>> print(summary)
    Sequential of float32(8, 3)
    layer     kind   output         parameters  bytes  output bytes  FLOPs
    layers.0  Dense  float32(8, 4)          16   64 B         128 B    256
    layers.1  Dense  float32(8, 2)          10   40 B          64 B    144
    26 parameters (104 B), 26 of them trainable; 400 FLOPs; at most 328 B alive at once
    """

    name: str
    inputs: str
    rows: tuple[Row, ...]
    peak_bytes: int

    @property
    def parameters(self) -> int:
        """How many numbers all parameters hold."""
        return sum(row.parameters for row in self.rows)

    @property
    def trainable(self) -> int:
        """How many of them require a gradient."""
        return sum(row.trainable for row in self.rows)

    @property
    def flops(self) -> int:
        """Floating-point operations of one call."""
        return sum(row.flops for row in self.rows)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters and buffers."""
        return sum(row.parameter_bytes for row in self.rows)

    def __str__(self) -> str:
        head = ("layer", "kind", "output", "parameters", "bytes", "output bytes", "FLOPs")
        # Containers that do nothing of their own only repeat what stands below them.
        shown = [row for row in self.rows if row.path or row.parameters or row.flops or len(self.rows) == 1]
        body = [
            (
                row.path or "(itself)",
                row.kind + (f" x{row.calls}" if row.calls > 1 else ""),
                row.output or "not called",
                f"{row.parameters:,}" + (" frozen" if row.parameters and not row.trainable else ""),
                show_bytes(row.parameter_bytes),
                show_bytes(row.output_bytes),
                f"{row.flops:,}",
            )
            for row in shown
        ]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        pads = (str.ljust,) * 3 + (str.rjust,) * 4
        lines = ["  ".join(pad(cell, width) for pad, cell, width in zip(pads, line, widths, strict=True)) for line in (head, *body)]
        total = f"{self.parameters:,} parameters ({show_bytes(self.parameter_bytes)}), {self.trainable:,} of them trainable"
        last = f"{total}; {self.flops:,} FLOPs; at most {show_bytes(self.peak_bytes)} alive at once"
        return "\n".join(line.rstrip() for line in (f"{self.name} of {self.inputs}", *lines, last))

    __repr__ = __str__


def summarize(layer: Layer, avals: Sequence[Aval], structure: tree.Structure) -> Summary:
    """The summary of a layer that has its parameters, for inputs of these avals."""
    watcher = _Watcher()
    with layer.evaluating(), using(EVERYDAY), no_grad():
        graph, _ = trace_with(lambda *inputs: layer(*inputs), avals, structure, tracer=watcher)
    listed = dict(layer.named_layers())
    flops = Counter[str]()
    for node in graph.nodes:
        path = ".".join(node.scope)
        # A layer that has two places is listed in one: what it does in the other counts where that stands.
        while path not in listed:
            path = path.rpartition(".")[0]
        flops[path] += floating_operations(node)
    counted: set[int] = set()
    rows = [_row(path, inside, watcher, flops[path], counted) for path, inside in listed.items()]
    return Summary(layer.label, ", ".join(map(str, avals)), tuple(rows), live_bytes(graph))


class _Watcher(GraphTracer):
    """A tracer that keeps what layers return."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[int, list[Aval]] = {}
        self.calls = Counter[int]()

    def returned(self, layer: Any, out: Any) -> None:
        self.outputs[id(layer)] = [Aval(x.shape, x.dtype) for x in tree.leaves(out)]
        self.calls[id(layer)] += 1


def _row(path: str, layer: Layer, watcher: _Watcher, flops: int, counted: set[int]) -> Row:
    own = {name: member for name, member in layer._own_tensors() if id(member) not in counted}
    counted.update(map(id, own.values()))
    parameters = [x for name, x in own.items() if name in layer._parameters]
    outputs = watcher.outputs.get(id(layer), [])
    return Row(
        path=path,
        kind=type(layer).__name__,
        output=", ".join(map(str, outputs)),
        parameters=sum(x.size for x in parameters),
        trainable=sum(x.size for x in parameters if x.requires_grad),
        flops=flops,
        parameter_bytes=sum(_bytes(x) for x in own.values()),
        output_bytes=sum(_bytes(x) for x in outputs),
        calls=watcher.calls[id(layer)],
    )


def _bytes(x: Aval | Tensor) -> int:
    return x.size * x.dtype.itemsize
