"""Pictures: what stands on them is what was computed, nothing lies on anything else, and they are the same each time."""

from __future__ import annotations

import builtins
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import chainrule as cr
from chainrule import models, nn
from chainrule.core.errors import ArgumentError, MissingExtraError
from chainrule.core.primitive import TABLE, functions
from chainrule.view.draw import Picture
from chainrule.view.palettes import PALETTES
from chainrule.view.patterns import pattern, sign
from chainrule.view.picture_values import of_graph
from chainrule.view.shapes import Area, Curve, Text
from gates import Gate

pytest.importorskip("pygraphviz", reason="pictures are laid out by Graphviz: pip install 'chainrule[view]'")

GOLDEN = Path(__file__).parent / "golden"
E2 = (2.0, -1.0, -3.0, -2.0, -3.0)


def e1(x: Any, y: Any, z: Any) -> Any:
    q = x + y
    return q * z


def e2(w0: Any, x0: Any, w1: Any, x1: Any, w2: Any) -> Any:
    return 1 / (1 + cr.exp(-(w0 * x0 + w1 * x1 + w2)))


def e3(w0: Any, x0: Any, w1: Any, x1: Any, w2: Any) -> Any:
    s0 = w0 * x0
    s1 = w1 * x1
    s2 = s0 + s1
    s3 = s2 + w2
    return cr.sigmoid(s3)


def branches(x: Any, y: Any) -> Any:
    a = x * y
    b = a * a
    return b + cr.maximum(a, x) * x


def of_network(model: nn.Layer, *shape: int, classes: int = 3) -> Callable[[], Picture]:
    def loss(x: Any, y: Any) -> Any:
        return nn.losses.softmax_cross_entropy(model(x), y)

    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    y = rng.integers(0, classes, shape[0])
    return lambda: cr.draw(loss, x, y)


def digits_network() -> nn.Layer:
    images = [nn.Conv2D(8, 3, padding="same"), nn.MaxPooling2D(2), nn.ReLU(), nn.Conv2D(16, 3), nn.ReLU(), nn.Dropout(0.25), nn.Flatten()]
    return nn.Sequential([*images, nn.Dense(16, activation="relu"), nn.Dense(3)])


def language() -> Picture:
    model = models.lstm_language_model(12)
    tokens = np.random.default_rng(0).integers(0, 12, (2, 5))
    return cr.draw(lambda tokens: nn.losses.softmax_cross_entropy(model(tokens), tokens), tokens)


def transformer() -> Picture:
    model = models.transformer(12)
    tokens = np.random.default_rng(0).integers(0, 12, (2, 5))
    return cr.draw(lambda tokens: nn.losses.softmax_cross_entropy(model(tokens), tokens), tokens)


def from_history() -> Picture:
    w = [cr.tensor(number, requires_grad=True) for number in (2.0, -3.0, -3.0)]
    loss = cr.sigmoid(w[0] * -1.0 + w[1] * -2.0 + w[2])
    return cr.draw(loss)


PICTURES: dict[str, Callable[[], Picture]] = {
    "E1": lambda: cr.draw(e1, -2.0, 5.0, -4.0),
    "E2": lambda: cr.draw(e2, *E2),
    "E3": lambda: cr.draw(e3, *E2),
    "branches": lambda: cr.draw(branches, 2.0, 3.0),
    "history": from_history,
    "gradient": lambda: cr.trace(e3, *E2).grad().draw(*E2),
    "perceptron": of_network(nn.Sequential([nn.Dense(4, activation="relu"), nn.Dense(3)]), 8, 2),
    "residual": of_network(models.resnet(classes=3), 2, 32, 32, 3),
    "digits": of_network(digits_network(), 4, 8, 8, 1),
    "lstm": language,
    "transformer": transformer,
}


PATTERNS = {"distributes", "swaps", "routes", "adds", "passes on", "flips sign", "scales", "shares", "stops", ""}


def texts(picture: Picture, role: str = "") -> list[str]:
    colors = {"value": PALETTES["board"].value, "gradient": PALETTES["board"].gradient, "": None}
    return [item.text for item in picture.scene.items if isinstance(item, Text) and colors[role] in (None, item.color)]


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_written_lies_on_something_else(name: str) -> None:
    picture = PICTURES[name]().scene
    written = [(item.text, item.box) for item in picture.items if isinstance(item, Text)]
    for (one, a), (other, b) in itertools.combinations(written, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], f"{one} and {other} overlap"
    for text, (left, top, right, bottom) in written:
        assert min(left, top, picture.width - right, picture.height - bottom) >= 0, f"{text} is cut off"


@pytest.mark.parametrize("name", PICTURES)
def test_no_gate_lies_on_a_number(name: str) -> None:
    items = PICTURES[name]().scene.items
    palette = PALETTES["board"]
    gates = [item for item in items if isinstance(item, Area) and item.stroke in (palette.ink, palette.soft)]
    numbers = [item for item in items if isinstance(item, Text) and item.color in (palette.value, palette.gradient)]
    for gate, text in itertools.product(gates, numbers):
        left, top, right, bottom = text.box
        apart = (
            abs(gate.x - (left + right) / 2) >= (gate.width + right - left) / 2
            or abs(gate.y - (top + bottom) / 2) >= (gate.height + bottom - top) / 2
        )
        assert apart, f"a gate lies on {text.text}"


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_is_one_file_that_takes_nothing_from_elsewhere(name: str) -> None:
    root = ET.fromstring(PICTURES[name]().svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    tags = {element.tag.split("}")[1] for element in root.iter()}
    assert tags <= {"svg", "title", "rect", "circle", "path", "text"}
    assert not [key for element in root.iter() for key in element.attrib if key.endswith("href")]


@pytest.mark.parametrize("name", ["E2", "residual"])
def test_the_same_graph_gives_the_same_picture(name: str) -> None:
    first, second = PICTURES[name](), PICTURES[name]()
    assert first.dot == second.dot
    assert first.svg == second.svg


def test_values_stand_above_and_gradients_below() -> None:
    picture = PICTURES["E2"]()
    values = {"2.00", "−1.00", "−3.00", "−2.00", "6.00", "4.00", "1.00", "0.37", "1.37", "0.73"}
    assert set(texts(picture, "value")) == values
    assert set(texts(picture, "gradient")) == {"−0.20", "0.39", "−0.39", "−0.59", "0.20", "−0.53", "1.00"}
    items = picture.scene.items
    at = {item.text: item for item in items if isinstance(item, Text) and item.text in ("0.73", "1.37", "−0.59")}
    lines = [point for item in items if isinstance(item, Curve) for point in item.points]
    near = [y for x, y in lines if abs(x - at["0.73"].x) < 60]
    assert at["0.73"].y < min(near) + 1


def test_the_numbers_of_e1_are_the_lectures() -> None:
    picture = PICTURES["E1"]()
    assert sorted(texts(picture, "value")) == sorted(["−2.00", "5.00", "3.00", "−4.00", "−12.00"])
    assert sorted(texts(picture, "gradient")) == sorted(["−4.00", "−4.00", "−4.00", "3.00", "1.00"])
    assert {"q", "distributes", "swaps"} <= set(texts(picture))


def test_a_value_used_twice_branches_and_there_gradients_add() -> None:
    x, y = 2.0, 3.0
    shown = texts(PICTURES["branches"](), "gradient")
    # d/dx of (xy)^2 + max(xy, x) x = 2xy.y + 2xy; its three uses send back 42, 0 and 6.
    assert {f"{2 * x * y * y + 2 * x * y:.2f}", "42.00", "0", "6.00"} <= set(shown)
    assert texts(PICTURES["branches"]()).count("adds") == 2


def test_a_loss_is_drawn_from_its_history_and_nothing_changes() -> None:
    x = cr.tensor(3.0, requires_grad=True)
    y = cr.tensor(4.0, requires_grad=True)
    seen: list[Any] = []
    product = x * y
    product.register_hook(seen.append)
    loss = product + x
    picture = cr.draw(loss)
    assert {"x", "y", "product", "loss", "12.00", "15.00"} <= set(texts(picture))
    assert sorted(texts(picture, "gradient")) == sorted(["5.00", "4.00", "1.00", "3.00", "1.00", "1.00"])
    assert x.grad is None
    assert seen == []
    loss.backward()
    assert {"5.00", "3.00"} <= set(texts(cr.draw(loss), "gradient"))


def test_a_history_knows_what_each_use_of_a_value_sends_back() -> None:
    x, y = cr.tensor(2.0, requires_grad=True), cr.tensor(3.0, requires_grad=True)
    drawn = texts(cr.draw(branches(x, y)), "gradient")
    assert sorted(drawn) == sorted(texts(PICTURES["branches"](), "gradient"))


def test_single_numbers_that_a_history_did_not_keep_are_worked_out_and_never_guessed() -> None:
    w = [cr.tensor(number, requires_grad=True) for number in (2.0, -1.0)]
    drawn = texts(cr.draw(1 / (1 + cr.exp(-(w[0] * w[1])))))
    assert {"+1", "1/x"} <= set(drawn)
    assert "+0.1" in texts(cr.draw(cr.log(cr.exp(w[0]) + 0.1)))
    mask = cr.tensor([0.5, 1.5, 2.5])
    x = cr.tensor([1.0, 2.0, 3.0], requires_grad=True)
    assert "+" in texts(cr.draw(cr.log(cr.exp(x) + mask).sum()))


def test_a_history_made_under_watch_knows_layers_and_arrays_are_known_by_their_variables() -> None:
    model = nn.Sequential([nn.Dense(4, activation="relu"), nn.Dense(3)])
    x, targets = cr.ones((2, 5)), cr.tensor([0, 2])
    model(x)
    with cr.detect_anomaly():
        loss = nn.losses.softmax_cross_entropy(model(x), targets)
    assert {"layers.0", "layers.1", "kernel", "targets", "x"} <= set(texts(cr.draw(loss)))


def test_a_tensor_without_history_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no history"):
        cr.draw(cr.tensor(1.0))
    with pytest.raises(ArgumentError, match="cannot be drawn"):
        cr.draw(3)  # pyright: ignore[reportArgumentType]


def test_a_graph_without_examples_shows_shapes() -> None:
    graph = cr.trace(lambda x, w: cr.sum(x @ w), np.ones((4, 3)), np.ones((3, 2)))
    assert {"4×3", "3×2", "4×2", "@", "swaps"} <= set(texts(graph.draw()))
    assert graph._repr_svg_() == graph.draw().svg


def test_patterns_are_read_off_the_records() -> None:
    def f(x: Any, y: Any) -> Any:
        a = cr.maximum(x * y, x + y)
        b = cr.mean(cr.relu(a)) + cr.sum(-cr.exp(a))
        return b + cr.sum(cr.broadcast_to(cr.reshape(x, (1, 6)), (4, 6))) + cr.sum(cr.floor(x @ y.T))

    x = np.random.default_rng(0).standard_normal((2, 3))
    found = {step.primitive.name: pattern(step) for step in of_graph(cr.trace(f, x, x), (x, x)).steps}
    assert found["multiply"] == found["matmul"] == "swaps"
    assert found["add"] == found["sum"] == "distributes"
    assert found["maximum"] == found["relu"] == "routes"
    assert found["mean"] == "shares"
    assert found["negative"] == "flips sign"
    assert found["broadcast_to"] == "adds"
    assert found["reshape"] == "passes on"
    assert found["floor"] == "stops"
    assert found["exp"] == "scales"


def test_signs_are_the_boards() -> None:
    assert [sign(step) for step in of_graph(cr.trace(e2, *E2), E2).steps] == ["×", "×", "+", "+", "×−1", "exp", "+1", "1/x"]
    assert [sign(step) for step in of_graph(cr.trace(e3, *E2), E2).steps] == ["×", "×", "+", "+", "σ"]
    squares = cr.trace(lambda x: cr.sum(1 - x**2), np.ones(3))
    assert [sign(step) for step in of_graph(squares, (np.ones(3),)).steps][-2:] == ["1−x", "Σ"]
    powers = cr.trace(lambda x: x**2 + x**-1.5, np.ones(3))
    assert [sign(step) for step in of_graph(powers, (np.ones(3),)).steps][:2] == ["x²", "x^−1.5"]


@pytest.mark.parametrize("name", [name for name in TABLE if hasattr(functions, name)])
def test_every_gate_can_be_drawn(name: str) -> None:
    for case in Gate(TABLE[name], getattr(functions, name)).cases()[:2]:
        steps = of_graph(cr.trace(case, *case.arrays), case.arrays).steps
        # Where a function is made of several gates, or of none, others stand there.
        for step in steps:
            assert 0 < len(sign(step)) < 40
            assert pattern(step) in PATTERNS
            assert len(step.shares) == len(step.inputs)


def test_layers_fold_by_themselves_and_by_name() -> None:
    draw = of_network(digits_network(), 4, 8, 8, 1)
    assert "320 parameters" not in texts(draw())
    model = digits_network()

    def loss(x: Any, y: Any) -> Any:
        return nn.losses.softmax_cross_entropy(model(x), y)

    example = np.ones((2, 8, 8, 1), np.float32), np.zeros(2, np.int64)
    folded = texts(cr.draw(loss, *example, fold="all"))
    assert {"layers.0", "Conv2D", "80 parameters", "layers.8", "Dense", "51 parameters"} <= set(folded)
    assert "conv" not in folded
    one = texts(cr.draw(loss, *example, fold=["layers.0"]))
    assert one.count("conv") == 1
    assert {"layers.0", "Conv2D", "layers.3 Conv2D", "layers.8 Dense"} <= set(one)
    with pytest.raises(ArgumentError, match="no layer 'encoder'"):
        cr.draw(loss, *example, fold=["encoder"])
    with pytest.raises(ArgumentError, match="not a way to fold"):
        cr.draw(loss, *example, fold="some")


def test_running_statistics_are_no_parameters() -> None:
    model = nn.Sequential([nn.Dense(6), nn.BatchNormalization(), nn.Dense(2)])
    drawn = texts(cr.draw(lambda x: model(x).sum(), np.ones((4, 3), np.float32), fold="all"))
    assert {"24 parameters", "12 parameters", "14 parameters"} <= set(drawn)


def test_a_graph_of_ten_thousand_gates_stays_readable() -> None:
    def long(x: Any) -> Any:
        for _ in range(10_000):
            x = cr.sin(x)
        return x

    graph = cr.trace(long, 1.0)
    start = time.process_time()
    picture = graph.draw(1.0)
    nodes = len([item for item in picture.scene.items if isinstance(item, Area)])
    assert time.process_time() - start < 3
    assert nodes <= 60
    assert "… 9,978 operations" in texts(picture)


def test_a_long_picture_is_set_in_rows_of_a_pages_width() -> None:
    def f(x: Any) -> Any:
        for _ in range(20):
            x = cr.sin(x)
        return x

    picture = cr.draw(f, 1.0).scene
    gates = [(item.y, item.x) for item in picture.items if isinstance(item, Area)]
    assert picture.width < 1600
    assert len(gates) == 20
    assert gates == sorted(gates)
    assert len({y for y, _ in gates}) == 2


def test_wires_that_go_on_in_the_next_row_hang_together() -> None:
    picture = PICTURES["transformer"]().scene
    wires = [item for item in picture.items if isinstance(item, Curve)]
    whole = PICTURES["E2"]().scene
    assert len([item for item in whole.items if isinstance(item, Curve)]) == 13
    starts, ends = {wire.points[0] for wire in wires}, {wire.points[-1] for wire in wires}
    turned = [wire for wire in wires if wire.points[0][0] > wire.points[-1][0]]
    assert turned
    assert all(wire.points[0] in ends and wire.points[-1] in starts for wire in turned)


def test_the_picture_is_saved_as_what_its_name_says(tmp_path: Path) -> None:
    picture = cr.draw(e1, -2.0, 5.0, -4.0, path=tmp_path / "e1.svg")
    assert (tmp_path / "e1.svg").read_text(encoding="utf-8") == picture.svg == picture._repr_svg_()
    picture.save(tmp_path / "e1.png").save(tmp_path / "e1.dot")
    assert (tmp_path / "e1.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "e1.dot").read_text(encoding="utf-8") == picture.dot
    with pytest.raises(ArgumentError, match=r"\.svg, \.png or \.dot"):
        picture.save(tmp_path / "e1.gif")


def test_the_graph_of_e2_in_graphvizs_language() -> None:
    assert PICTURES["E2"]().dot == (GOLDEN / "draw_e2.dot").read_text(encoding="utf-8")


def test_what_is_written_can_be_left_out() -> None:
    assert texts(cr.draw(e1, -2.0, 5.0, -4.0, gradients=False), "gradient") == []
    assert "5.00" not in texts(cr.draw(e1, -2.0, 5.0, -4.0, values=False))


@pytest.mark.parametrize("name", PALETTES)
def test_every_text_can_be_read_on_what_lies_behind_it(name: str) -> None:
    def light(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    palette = PALETTES[name]
    for ink, ground in itertools.product((palette.value, palette.gradient, palette.ink, palette.soft), (palette.paper, palette.wash, palette.box)):
        low, high = sorted((light(ink), light(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)


def test_a_picture_is_a_table_too() -> None:
    lines = str(PICTURES["E3"]()).splitlines()
    assert lines[0].split() == ["from", "to", "name", "value", "gradient", "the", "gate", "there"]
    assert lines[-1].split() == ["σ", "e3", "0.73", "1.00"]
    assert len(lines) == 1 + 10


def test_the_picture_in_the_docs_is_the_one_that_is_drawn() -> None:
    kept = ET.fromstring((Path(__file__).parent.parent / "docs" / "pictures" / "neuron.svg").read_text(encoding="utf-8"))
    there = [element.text or "" for element in kept.iter("{http://www.w3.org/2000/svg}text")]
    # There the result has a name of its own.
    assert sorted(text.replace("L", "e3") for text in there) == sorted(texts(PICTURES["E3"]()))


def test_the_safe_palette_has_neither_red_nor_green() -> None:
    board, safe = PALETTES["board"], PALETTES["safe"]
    picture = cr.draw(e1, -2.0, 5.0, -4.0, palette="safe").svg
    assert all(color in picture for color in (safe.value, safe.gradient))
    assert not any(color in picture for color in (board.value, board.gradient))
    with pytest.raises(ArgumentError, match="palette"):
        cr.draw(e1, -2.0, 5.0, -4.0, palette="neon")


def test_without_graphviz_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any) -> Any:
        if name == "pygraphviz":
            raise ImportError(name)
        return real(name, *args)

    picture, graph = cr.draw(e1, -2.0, 5.0, -4.0), cr.trace(e1, 1.0, 2.0, 3.0)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r"chainrule\[view\]"):
        _ = picture.svg
    assert graph._repr_svg_() is None
