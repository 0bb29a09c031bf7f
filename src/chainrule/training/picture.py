"""The picture of a run: the loss above, the metrics below, over epochs; one SVG file, written by hand.

Thin lines are single steps; thick ones are an epoch's means over the training data while it was learned from,
drawn in the epoch's middle, and what was measured on held-out data at its end. It follows a dark colour scheme where the viewer has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

Record = dict[str, Any]
Points = list[tuple[float, float]]

_WIDTH, _LEFT, _RIGHT = 860, 68, 150
_TOP, _HEIGHT, _GAP = 76, 230, 62
LIGHT = {"page": "#ffffff", "ink": "#1d2430", "soft": "#5a6473", "grid": "#e7eaef", "axis": "#b9c0cb", "train": "#2463c8", "held": "#d9671b"}
DARK = {"page": "#14181f", "ink": "#e8ecf2", "soft": "#98a3b3", "grid": "#262d38", "axis": "#4a5464", "train": "#6ea3ff", "held": "#ff9a56"}
"""What is drawn in which colour."""

_STYLE = """
  .fine { stroke-width: 1; stroke-opacity: 0.32; fill: none } .line { stroke-width: 2.2; fill: none; stroke-linejoin: round; stroke-linecap: round }
  .title { font-weight: 600; font-size: 17px } .label { font-size: 12.5px } .end { font-size: 12.5px; font-weight: 600 }
  .grid, .axis { stroke-width: 1 } .dot { stroke-width: 1.5 } text { font-family: system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif }
"""


def _colored(colors: Mapping[str, str]) -> str:
    page, ink, soft, grid, axis, train, held = (colors[name] for name in LIGHT)
    return (
        f".page {{ fill: {page} }} .dot {{ stroke: {page} }} .title {{ fill: {ink} }} .label {{ fill: {soft} }} .grid {{ stroke: {grid} }} "
        f".axis {{ stroke: {axis} }} .train {{ stroke: {train} }} .held {{ stroke: {held} }} "
        f".ink-train {{ fill: {train} }} .ink-held {{ fill: {held} }}"
    )


def draw(records: Sequence[Record], title: str, light: Mapping[str, str] = LIGHT, dark: Mapping[str, str] = DARK) -> str:
    """The picture, as SVG text, of a run's metrics.

    Parameters
    ----------
    records : sequence of dict
        Lines of ``metrics.jsonl``.
    title : str
    light, dark : Mapping
        Colours like `LIGHT` and `DARK`.
    """
    epochs = [record for record in records if record["kind"] == "epoch"]
    steps = [record for record in records if record["kind"] == "step"]
    per_epoch = epochs[0]["step"] if epochs else max((record["step"] for record in steps), default=1)
    last = max([record["epoch"] for record in epochs] + [record["step"] / per_epoch for record in steps], default=1.0)
    names = ["loss", *(name for name in (epochs[-1] if epochs else {}) if f"validation_{name}" in epochs[-1] and name != "loss")]
    height = _TOP + len(names) * (_HEIGHT + _GAP)
    style = f"{_STYLE}  {_colored(light)}\n  @media (prefers-color-scheme: dark) {{ {_colored(dark)} }}\n"
    body = [_text(_LEFT, 36, title, "title")]
    for place, name in enumerate(names):
        thin = [(record["step"] / per_epoch, record["loss"]) for record in steps if record["loss"] is not None] if name == "loss" else []
        thick = [(record["epoch"] - 0.5, record[name]) for record in epochs if record.get(name) is not None]
        held = [(record["epoch"], record[f"validation_{name}"]) for record in epochs if record.get(f"validation_{name}") is not None]
        body += _panel(name, _TOP + place * (_HEIGHT + _GAP), thin, thick, held, max(last, 1.0))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img">'
        f'<title>{escape(title)}</title><style>{style}</style><rect class="page" width="{_WIDTH}" height="{height}"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _panel(name: str, top: float, thin: Points, thick: Points, held: Points, last: float) -> list[str]:
    values = [y for points in (thin, thick, held) for _, y in points if math.isfinite(y)]
    share = name.endswith("accuracy")
    low, high, ticks, scale = _share_axis(values) if share else _log_axis(values)
    right = _WIDTH - _RIGHT

    def at_x(x: float) -> float:
        return _LEFT + x / last * (right - _LEFT)

    def at_y(y: float) -> float:
        return top + _HEIGHT * (1 - (scale(y) - scale(low)) / (scale(high) - scale(low)))

    parts = [_text(_LEFT, top - 10, name, "label")]
    for tick in ticks:
        y = at_y(tick)
        parts += [
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>',
            _text(_LEFT - 10, y + 4, _number(tick, share), "label", "end"),
        ]
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{top + _HEIGHT}" y2="{top + _HEIGHT}"/>')
    parts += [_text(at_x(tick), top + _HEIGHT + 20, f"{tick:g}", "label", "middle") for tick in _whole_ticks(last)]
    parts.append(_text(right + 12, top + _HEIGHT + 20, "epochs", "label"))
    lines = ((thin, "train fine"), (thick, "train line"), (held, "held line"))
    # A line may run out of its panel at the bottom, but not across the others.
    clip = f"panel-{name}"
    parts.append(f'<clipPath id="{clip}"><rect x="{_LEFT - 3}" y="{top - 3}" width="{right - _LEFT + 6}" height="{_HEIGHT + 3}"/></clipPath>')
    drawn = [_polyline([(at_x(x), at_y(max(y, low / 2))) for x, y in points], kind) for points, kind in lines if len(points) > 1]
    parts.append(f'<g clip-path="url(#{clip})">{"".join(drawn)}</g>')
    named = ((thick, "train", "train"), (held, "held", "held out"))
    ends = [(at_y(min(max(points[-1][1], low), high)), points[-1], kind, label) for points, kind, label in named if points]
    parts += [f'<circle class="dot ink-{kind}" cx="{at_x(point[0]):.1f}" cy="{y:.1f}" r="4"/>' for y, point, kind, _ in ends]
    apart = _apart([y for y, *_ in ends])
    return parts + [
        _text(right + 12, y + 4, f"{label} {_number(point[1], share, exact=True)}", f"end ink-{kind}")
        for y, (_, point, kind, label) in zip(apart, ends, strict=True)
    ]


def _apart(ys: list[float]) -> list[float]:
    """Two labels' heights, moved apart where they would overlap."""
    if len(ys) < 2 or abs(ys[0] - ys[1]) >= 16:
        return ys
    middle, sign = (ys[0] + ys[1]) / 2, 1 if ys[0] > ys[1] else -1
    return [middle + 8 * sign, middle - 8 * sign]


Axis = tuple[float, float, list[float], Callable[[float], float]]


def _log_axis(values: Sequence[float]) -> Axis:
    """Lowest and highest value, ticks and scale; a few outliers at the bottom may be cut off."""
    ordered = sorted(value for value in values if value > 0) or [0.1, 1.0]
    least, most = ordered[len(ordered) // 50], ordered[-1]
    every = [m * 10.0**e for e in range(math.floor(math.log10(least)) - 1, math.ceil(math.log10(most)) + 2) for m in (1, 2, 5)]
    low, high = max(tick for tick in every if tick <= least), min(tick for tick in every if tick >= most)
    ticks = [tick for tick in every if low <= tick <= max(high, 2 * low)]
    few = [tick for tick in ticks if math.isclose(math.log10(tick), round(math.log10(tick)))]
    return low, ticks[-1], ticks if len(ticks) <= 10 else few, math.log10


def _share_axis(values: Sequence[float]) -> Axis:
    """The same for shares; the first epochs may be cut off, so that the last ones can be told apart."""
    ordered = sorted(values) or [0.0]
    least = ordered[len(ordered) // 6]
    low, step = next(((low, step) for low, step in ((0.98, 0.005), (0.95, 0.01), (0.9, 0.02), (0.8, 0.05), (0.5, 0.1)) if low <= least), (0.0, 0.2))
    return low, 1.0, [low + step * i for i in range(round((1 - low) / step) + 1)], lambda x: x


def _whole_ticks(last: float) -> list[int]:
    step = next(s for s in (m * 10**e for e in range(9) for m in (1, 2, 5)) if last / s <= 12)
    return list(range(0, math.floor(last) + 1, step))


def _number(value: float, share: bool, *, exact: bool = False) -> str:
    if share:
        return f"{value:.2%}" if exact else f"{100 * value:.4g}%"
    return f"{value:.3g}"


def _polyline(points: Points, kind: str) -> str:
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
