"""A diagram in Graphviz's language: as the graph to lay out, and, with its texts, for other programs to draw."""

from __future__ import annotations

from html import escape

from chainrule.view.diagram import SIZES, Diagram, Node, Wire, text_width
from chainrule.view.folding import Box
from chainrule.view.palettes import MATHS, PLAIN, Palette

_HEAVY, _LIGHT = 20, 1
_FRAME = 14


def write(diagram: Diagram, palette: Palette | None = None) -> str:
    """The graph: one node per gate and per seat, one cluster per frame.

    Parameters
    ----------
    diagram : Diagram
    palette : Palette, optional
        Without it, nothing but sizes: what is to be laid out.
    """
    inside: dict[tuple[Box, ...], list[str]] = {(): [], **{group: [] for group in diagram.frames}}
    for node in diagram.nodes:
        inside[node.group].append(_node(node, palette))
    for wire in diagram.wires:
        inside[wire.group].append(_seat(wire, palette))
    # Inner frames before outer ones, so that each is complete when it is put into the one around it.
    for place, group in reversed([*enumerate(diagram.frames)]):
        body = [f"  {line}" for line in inside[group]]
        inside[group[:-1]] += [f"subgraph cluster_{place} {{", *(f"  {line}" for line in _frame(group[-1], palette)), *body, "}"]
    edges = [line for wire in diagram.wires for line in _edges(wire, _framed(diagram))]
    looks = ["fixedsize=true"] if palette is None else [f'fontname="{PLAIN[0]}"', f'color="{palette.soft}"', f'fontcolor="{palette.ink}"']
    head = [
        f"digraph {_quoted(diagram.name)} {{",
        *(f"  {line}" for line in (
            'rankdir=LR; nodesep=0.12; ranksep=0.2; splines=true; ordering=in; margin=0;' + (f' bgcolor="{palette.paper}";' if palette else ""),
            f'node [shape=box, label="", {", ".join(looks)}];',
            "edge [arrowhead=none" + (f', color="{palette.wire}"' if palette else "") + "];",
        )),
    ]  # fmt: skip
    return "\n".join([*head, *(f"  {line}" for line in (*inside[()], *edges)), "}", ""])


def _framed(diagram: Diagram) -> set[str]:
    """Nodes in a frame that a wire from a neighbour in the same frame enters: what else enters comes in from the left."""
    groups = {node.id: node.group for node in diagram.nodes}
    return {wire.head for wire in diagram.wires if groups[wire.head] and wire.group == groups[wire.head]}


def _node(node: Node, palette: Palette | None) -> str:
    if palette is None:
        return f"{node.id} [{_room(node.size)}];"
    if node.kind == "branch":
        return f'{node.id} [{_room(node.shape)}, shape=point, xlabel="{node.note}", fontsize={SIZES["badge"]}, fontcolor="{palette.soft}"];'
    if node.kind in ("leaf", "out"):
        return f'{node.id} [{_room(node.shape)}, shape=plain, label={_quoted(node.text)}, fontname="{MATHS[0]}", fontsize={SIZES["leaf"]}];'
    if node.kind == "box":
        small = "".join(f'<br/><font point-size="{SIZES["detail"]}" color="{palette.soft}">{escape(note)}</font>' for note in node.note.splitlines())
        style = "dashed" if node.plain else "filled"
        return f'{node.id} [{_room(node.shape)}, style="rounded,{style}", fillcolor="{palette.box}", label=<<b>{escape(node.text)}</b>{small}>];'
    # Below the sign stands what the gate does to a gradient.
    shape = "shape=circle, fixedsize=true" if node.shape[0] == node.shape[1] else 'style="rounded"'
    small = f'<font point-size="{SIZES["badge"]}" color="{palette.soft}">{escape(node.note)}</font>'
    note = f", xlabel=<{small}>" * bool(node.note)
    return f"{node.id} [{_room(node.shape)}, {shape}, label={_quoted(node.text)}{note}];"


def _seat(wire: Wire, palette: Palette | None) -> str:
    if palette is None:
        return f"{wire.id} [{_room(wire.size)}];"
    rows = [(line.text, palette.soft if line.style == "name" else palette.value) for line in wire.above]
    rows += [(line.text, palette.gradient) for line in wire.below]
    words = [f'<font point-size="{SIZES["shape"]}" color="{color}">{escape(text)}</font>' for text, color in rows if text]
    return f"{wire.id} [{_room(wire.size)}, shape=plain, label=<{'<br/>'.join(words) or ' '}>];"


def _edges(wire: Wire, framed: set[str]) -> list[str]:
    weight = _HEAVY if wire.heavy else _LIGHT
    longer = ", minlen=3" if wire.head in framed and not wire.group else ""
    return [
        f"{wire.tail} -> {wire.id} [tailport=e, headport=w, weight={weight}];",
        f"{wire.id} -> {wire.head} [tailport=e, headport=w, weight={weight}{longer}];",
    ]


def _frame(box: Box, palette: Palette | None) -> list[str]:
    if palette is not None:
        return [
            f'margin={_FRAME}; label={_quoted(box.title)}; labeljust=l; style="rounded,filled"; fillcolor="{palette.wash}"; color="{palette.line}";'
        ]
    wide = text_width(box.title, SIZES["frame"])
    table = f'<table border="0" cellborder="0" fixedsize="true" width="{wide:.0f}" height="{SIZES["frame"] + 4}"><tr><td></td></tr></table>'
    return [f"margin={_FRAME}; label=<{table}>;"]


def _room(size: tuple[float, float]) -> str:
    return f"width={size[0] / 72:.3f}, height={size[1] / 72:.3f}"


def _quoted(text: str) -> str:
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{plain}"'
