"""The explorer page's data say what the library computes, for any program, and the page is one file that asks for nothing."""

import json
import re
import time

import numpy as np
import pytest

import chainrule as cr
from chainrule.cli import main
from chainrule.core.errors import ArgumentError, GradientError
from explorable import PROGRAMS, cube, neuron

pytest.importorskip("pygraphviz", reason="pages are laid out by Graphviz: pip install 'chainrule[view]'")

from chainrule.view.explorer import page as pages
from chainrule.view.explorer.page import page


def explored(f, *inputs, **options):
    return pages.explored(f, *inputs, **options)[0]


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request):
    f, inputs = PROGRAMS[request.param]
    return f, inputs, explored(f, *inputs)


def test_values_and_gradients_are_the_systems_own(program):
    f, inputs, data = program
    real = [i for i, x in enumerate(inputs) if np.asarray(x).dtype.kind == "f"]
    with np.errstate(all="ignore"):
        value, gradients = cr.value_and_grad(f, argnums=real)(*inputs)
    names = [x.name for x in cr.trace(f, *inputs).parameters]
    np.testing.assert_allclose(data["vars"][data["output"]]["value"], [float(value)], rtol=2e-5)
    for i, gradient in zip(real, gradients, strict=True):
        told = data["vars"][names[i]]
        np.testing.assert_allclose(told["grad"], np.ravel(gradient), rtol=2e-5, atol=1e-12)
        assert told["shape"] == list(np.shape(inputs[i]))


def test_gradients_on_the_wires_add_up_at_branches(program):
    *_, data = program
    into = {(wire["to"], wire["slot"]): wire for wire in data["wires"]}
    assert len(into) == len(data["wires"])
    for id, gate in data["gates"].items():
        if gate["op"] != "copy":
            continue
        feeds = [wire for wire in data["wires"] if wire["from"] == id]
        assert gate["branches"] == [wire["id"] for wire in feeds]
        parts = [[1.0] if wire["to"] == "out:" else data["gates"][wire["to"]]["down"][wire["slot"]] for wire in feeds]
        parts = [np.array(part) for part in parts if part is not None]
        if parts:
            np.testing.assert_allclose(sum(parts), gate["down"][0], rtol=1e-4, atol=1e-6)


def test_upstream_times_local_is_downstream(program):
    *_, data = program
    checked = 0
    for gate in data["gates"].values():
        for table, down in zip(gate["jacobian"], gate["down"], strict=True):
            if table is None or down is None:
                continue
            upstream = data["vars"][gate["output"]]["grad"]
            sent = [sum(upstream[k] * d for k, d in row if d) for row in table]
            np.testing.assert_allclose(sent, down, rtol=1e-4, atol=1e-6)
            checked += 1
    assert checked


def test_the_numeric_check_agrees(program):
    *_, data = program
    checked = [x for x in data["vars"].values() if x["numeric"] is not None]
    assert checked
    for x in checked:
        np.testing.assert_allclose(x["numeric"], x["grad"], rtol=1e-3, atol=1e-5)
        assert x["error"] < 1e-4


def test_the_data_keep_their_contract(program):
    *_, data = program
    assert data["version"] == 2
    assert data["output"] in data["vars"]
    nodes = {node["id"]: node for node in data["nodes"]}
    assert len(nodes) == len(data["nodes"])
    for node in data["nodes"]:
        assert node["kind"] in ("leaf", "gate", "copy", "out")
        assert node["var"] in data["vars"]
    assert {id for id, node in nodes.items() if node["kind"] in ("gate", "copy")} == set(data["gates"])
    for gate in data["gates"].values():
        assert all(gate[key] or gate["op"] == "copy" for key in ("title", "glyph", "pattern", "forward"))
        assert {len(gate[key]) for key in ("inputs", "local", "down", "jacobian")} == {len(gate["inputs"])}
        assert gate["output"] == gate["outputs"][0]
    for wire in data["wires"]:
        assert wire["from"] in nodes
        assert wire["to"] in nodes
    for name, x in data["vars"].items():
        assert x["kind"] in ("input", "parameter", "data", "computed")
        assert len(x["value"]) == np.prod(x["shape"], dtype=int), name
        assert (x["grad"] is None) == bool(x["absent"])
    _check_layouts(data)


def _check_layouts(data):
    """Everything stands in one box, every wire in the innermost box around both ends, and crosses the border of each box in between."""
    parents = {group["id"]: group["parent"] for group in data["groups"]}
    homes = {node["id"]: node["group"] for node in data["nodes"]} | {f"box:{box}": parent for box, parent in parents.items()}
    assert set(data["layouts"]) == {"", *parents}
    for box, layout in data["layouts"].items():
        assert set(layout["nodes"]) == {name for name, home in homes.items() if (home or "") == box}
        width, height = layout["size"]
        for x, y, w, h in layout["nodes"].values():
            assert w / 2 - 2 <= x <= width - w / 2 + 2
            assert h / 2 - 2 <= y <= height - h / 2 + 2
    around = {"": set()}
    for box, parent in parents.items():
        around[box] = {box, *around[parent or ""]}
    for wire in data["wires"]:
        tail, head = (around[homes[wire[end]] or ""] for end in ("from", "to"))
        layouts = data["layouts"]
        ((seat, before, after),) = [layout["wires"][wire["id"]] for layout in layouts.values() if wire["id"] in layout["wires"]]
        assert len(before) % 6 == len(after) % 6 == 2
        assert before[-2] < seat[0] < after[0]
        assert {box for box in layouts if wire["id"] in layouts[box]["exits"]} == tail - head
        assert {box for box in layouts if wire["id"] in layouts[box]["entries"]} == head - tail


def test_every_line_of_code_is_reached_by_a_step(program):
    *_, data = program
    reached = [line for step in data["steps"] for line in step["lines"]]
    assert set(reached) == set(range(len(data["code"])))
    phases = [step["phase"] for step in data["steps"]]
    assert phases == sorted(phases, key=["start", "forward", "seed", "backward"].index)
    wires = {wire["id"] for wire in data["wires"]}
    assert all(line["var"] in data["vars"] if line["phase"] == "forward" else line["wire"] in wires for line in data["code"])


def _both(f, *inputs):
    """The lines of the page and of `cr.source`, which has no name for a result that the program gives none."""
    data = explored(f, *inputs)
    lines = [line.split("  # ")[0].strip() for line in cr.source(f, *inputs).splitlines()]
    unnamed = next(line for line in reversed(lines) if line.startswith("return ")).removeprefix("return ").split(",")[0]
    return [re.sub(rf"\b(grad_)?{data['output']}\b", rf"\1{unnamed}", line["text"]) for line in data["code"]], lines


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_flat_code_is_that_of_source(name):
    f, inputs = PROGRAMS[name]
    own, lines = _both(f, *inputs)
    assert [line for line in lines if line in own and " = " in line] == own


def test_the_flat_code_of_layers_is_that_of_source():
    model = cr.nn.Sequential([cr.nn.Conv2D(2, 3, activation="relu"), cr.nn.Flatten(), cr.nn.Dense(3), cr.nn.LayerNormalization()])
    x = np.random.default_rng(1).normal(size=(2, 5, 5, 3)).astype(np.float32)

    def loss(x):
        return (model(x) ** 2).mean()

    model(x)
    own, lines = _both(loss, x)
    assert set(own) <= set(lines)


def test_the_names_are_the_users_and_the_output_is_named_after_the_function():
    data = explored(neuron, 2.0, -1.0, -3.0, -2.0, -3.0)
    assert list(data["vars"]) == ["w0", "x0", "w1", "x1", "w2", "s0", "s1", "s2", "s3", "n", "e", "d", "neuron"]
    assert [line["text"] for line in data["code"]][-4:] == [
        "grad_w1 = grad_s1 * x1",
        "grad_x1 = grad_s1 * w1",
        "grad_w0 = grad_s0 * x0",
        "grad_x0 = grad_s0 * w0",
    ]
    assert [data["gates"][id]["glyph"] for id in ("s0", "s2", "n", "e", "d", "neuron")] == ["×", "+", "×−1", "exp", "+1", "1/x"]
    assert data["gates"]["e"]["local"] == ["e"]
    assert explored(cube, np.ones(2))["gates"]["t1"]["glyph"] == "x³"
    assert explored(lambda x: x**2, 3.0)["code"][-1]["text"].endswith(" * 2 * x")
    assert explored(cube, np.ones(2))["output"] == "cube"


def test_the_users_lines_stand_beside_the_gates():
    data = explored(neuron, 2.0, -1.0, -3.0, -2.0, -3.0)
    (source,) = data["source"]
    assert source["file"] == "explorable.py"
    file, number = data["gates"]["e"]["line"].split(":")
    assert file == source["file"]
    assert source["lines"][int(number) - source["first"]].strip() == "e = cr.exp(n)"
    assert "/" not in json.dumps(data["gates"]["e"]["line"])


def test_layers_fold_and_their_parameters_are_theirs():
    model = cr.nn.Sequential([cr.nn.Dense(3, activation="relu"), cr.nn.Dense(2)])
    x = np.ones((5, 4), np.float32)
    model.initialize((1, 4))

    def loss(x):
        return (model(x) ** 2).mean()

    data = explored(loss, x)
    assert [group["id"] for group in data["groups"]] == ["layers.0", "layers.1"]
    assert data["groups"][0]["detail"] == "3 gates, 15 parameters"
    assert set(data["layouts"]) == {"", "layers.0", "layers.1"}
    assert data["open"]
    assert data["vars"]["layers_0_kernel"]["kind"] == "parameter"
    assert data["vars"]["layers_0_kernel"]["label"] == "kernel"
    assert data["vars"]["x"]["absent"] == "it is data, for which no gradient is asked"
    loss(x).backward()
    np.testing.assert_allclose(data["vars"]["layers_0_kernel"]["grad"], np.ravel(model.layers[0].kernel.grad), rtol=1e-4, atol=1e-7)


def test_what_is_absent_is_told_and_nan_is_a_word():
    def broken(x, unused):
        y = cr.log(x)
        z = cr.stop_gradient(y) * cr.sqrt(x)
        return z.sum()

    data = explored(broken, np.array([1.0, -2.0, 0.0]), 2.0)
    text = json.dumps(data, allow_nan=False)
    assert '"NaN"' in text
    assert data["vars"]["y"]["value"] == [0.0, "NaN", "-Infinity"]
    assert data["vars"]["unused"]["absent"] == "it is not used, so it has no gradient"
    assert data["vars"]["unused"]["grad"] is None


def test_large_tensors_are_thinned_and_have_no_local_matrices():
    data = explored(cube, np.arange(10_000.0).reshape(100, 100) / 1e4)
    x = data["vars"]["x"]
    assert len(x["value"]) == np.prod(x["kept"]["shape"]) <= 4096
    rows, columns = x["kept"]["strides"]
    assert x["value"][1] == pytest.approx(columns / 1e4)
    assert x["value"][x["kept"]["shape"][1]] == pytest.approx(100 * rows / 1e4)
    assert x["stats"]["value"]["count"] == 10_000
    assert x["numeric"] is None
    assert all(table is None for gate in data["gates"].values() for table in gate["jacobian"])


def test_layers_of_layers_are_boxes_in_boxes():
    model = cr.models.transformer(7, width=8, heads=2, layers=2, context=6)
    tokens = np.arange(12).reshape(2, 6) % 7
    model(tokens)
    data = explored(lambda tokens: (model(tokens) ** 2).mean(), tokens)
    groups = {group["id"]: group for group in data["groups"]}
    query = groups["blocks.0.attention.query"]
    assert (query["label"], query["parent"]) == ("query", "blocks.0.attention")
    assert data["vars"]["blocks_0_attention_query_kernel"]["label"] == "kernel"
    assert groups["blocks.0.attention"]["parent"] == "blocks.0"
    assert groups["blocks.0"]["parent"] is None
    inside = [name for name, group in groups.items() if group["parent"] == "blocks.0"]
    parts = [int(groups[name]["detail"].split()[0]) for name in inside]
    directly = sum(node["group"] == "blocks.0" and node["kind"] == "gate" for node in data["nodes"])
    assert groups["blocks.0"]["detail"].startswith(f"{sum(parts) + directly} gates")
    _check_layouts(data)


def test_a_branch_stands_with_the_gates_that_read_it():
    model = cr.nn.Sequential([cr.nn.Dense(3), cr.nn.Residual(cr.nn.Dense(3))])
    x = np.ones((2, 3), np.float32)
    model(x)
    data = explored(lambda x: model(x).sum(), x)
    (copy,) = [node for node in data["nodes"] if node["kind"] == "copy"]
    assert copy["group"] == "layers.1"
    assert sum(wire["from"] == "t2" for wire in data["wires"]) == 1


def test_what_is_differentiated_can_be_chosen():
    data = explored(neuron, 2.0, -1.0, -3.0, -2.0, -3.0, wrt=["w0", "w1", "w2"])
    assert data["vars"]["x0"]["kind"] == "data"
    assert data["vars"]["x0"]["grad"] is None
    assert data["vars"]["w0"]["grad"] == [pytest.approx(-0.196612)]
    with pytest.raises(ArgumentError, match="no real floating-point argument 'v'"):
        explored(neuron, 2.0, -1.0, -3.0, -2.0, -3.0, wrt=["v"])


def test_a_function_without_a_scalar_is_refused():
    with pytest.raises(GradientError, match="one real scalar is differentiated"):
        explored(lambda x: x * 2, np.ones(3))
    with pytest.raises(GradientError, match="nothing to differentiate by"):
        explored(lambda n: cr.sqrt(cr.sum(n * 1.0)), np.arange(3))


def test_the_page_is_one_file_that_asks_for_nothing(program, tmp_path):
    f, inputs, _ = program
    path = cr.explore(f, *inputs, path=tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|\bsrc\s*=|<link|@import|url\(|fetch\(|import\(", text)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    json.loads(found[1], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert "/*DATA*/" not in text


def test_text_of_the_user_cannot_break_out_of_the_page():
    def f(x):
        """</script><script>alert(1)</script> /*SCRIPT*/"""
        return x * x

    text = page(explored(f, 2.0, title="<b>&"))
    assert "</script><script>alert" not in text
    assert "<title>&lt;b&gt;&amp; " in text
    assert text.count('"use strict"') == 1


def test_the_command_writes_a_page(tmp_path, capsys):
    (tmp_path / "small.py").write_text("import chainrule as cr\ndef f(w, x, b=1.0):\n    return cr.sum(w * x) + b\n")
    out = tmp_path / "out.html"
    assert main(["explore", f"{tmp_path / 'small.py'}:f", "w=2", "x=[1,2]", "-o", str(out)]) == 0
    assert "small.py" in out.read_text(encoding="utf-8")
    for wrong, says in ((["w=2"], "no value is given for x"), (["w=two"], "is no number"), (["v=1"], "has no argument v"), (["w"], "is no argument")):
        assert main(["explore", f"{tmp_path / 'small.py'}:f", *wrong]) == 2
        assert says in capsys.readouterr().err
    assert main(["explore", f"{tmp_path / 'small.py'}:g"]) == 2
    assert "choose among f" in capsys.readouterr().err
    assert main(["explore", "nowhere.py:f"]) == 2


def test_a_large_graph_is_cut_into_boxes_and_opens_folded():
    def chain(x):
        for _ in range(300):
            x = cr.tanh(x) * 1.01
        return x

    data = explored(chain, 1.0)
    names = [group["id"] for group in data["groups"]]
    assert names[0] == "gates_1_to_80"
    assert not data["open"]
    assert all(len(layout["nodes"]) < 200 for layout in data["layouts"].values())
    assert {node["group"] for node in data["nodes"] if node["kind"] == "gate"} == set(names)
    assert len(page(data)) - len(page(explored(cube, np.ones(2)))) < 800 * len(data["gates"])


def test_a_value_that_many_gates_read_is_laid_out_soon_and_no_seat_lies_on_another():
    def shared(x):
        t = x * 2
        return sum((cr.sin(t + i) for i in range(1, 180)), cr.sin(t))

    start = time.process_time()
    data = explored(shared, 0.3)
    assert time.process_time() - start < 20, "laid out wire by wire this takes minutes"
    for layout in data["layouts"].values():
        seats = np.array([seat for seat, _, _ in layout["wires"].values()] or np.zeros((0, 4)))
        gaps = np.abs(seats[:, None, :2] - seats[None, :, :2]) - (seats[:, None, 2:] + seats[None, :, 2:]) / 2
        assert (gaps.max(-1)[~np.eye(len(seats), dtype=bool)] >= -2).all()
        for (x, y, width, _), before, after in layout["wires"].values():
            # Each wire comes to its own seat, and leaves it.
            np.testing.assert_allclose([*before[-2:], *after[:2]], [x - width / 2, y, x + width / 2, y], atol=2)
