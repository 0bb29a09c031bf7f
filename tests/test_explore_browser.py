"""The explorer page in a real browser: it opens, steps, shows numbers, obeys the keyboard, and no text lies on another."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from explorable import PROGRAMS, network

HOW = "make test-browser installs what it takes"
pytest.importorskip("pygraphviz", reason=f"pages are laid out by Graphviz: {HOW}")
sync_api = pytest.importorskip("playwright.sync_api", reason=f"driven by Playwright: {HOW}")

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
CROWDED = Path(__file__).with_name("crowded.js").read_text(encoding="utf-8").split("\n", 1)[1]
DESK, PHONE = (1280, 800), (390, 844)

pytestmark = pytest.mark.browser


def layered(x):
    """Two layers and a squared error"""
    y = LAYERS(x)
    return (y**2).mean()


def faulty(x):
    """The logarithm of a negative number"""
    y = cr.log(x)
    return y.sum()


def recurrent(x):
    """A recurrent layer, whose first state is a gate without inputs"""
    y = UNITS(x)
    return (y**2).sum()


def detached(x):
    """A path that is cut"""
    a = cr.exp(x)
    b = a.detach() * W
    return (b**2).sum()


def shrinking(x):
    """Twelve sigmoids, one after another"""
    y = x
    for _ in range(12):
        y = cr.sigmoid(y)
    return y.sum()


def repeated(x):
    """A value that is used twice by the same gate, and a checkpoint, of which only the input is kept"""
    y = x * x
    z = cr.checkpoint(lambda y: cr.exp(cr.sin(y)))(y)
    return (z * y).sum()


def nested(x):
    """Layers within layers, and a branch around one of them"""
    return (BLOCKS(x) ** 2).mean()


W = cr.tensor(np.array([1.0, -2.0, 3.0]), requires_grad=True)
UNITS = cr.nn.LSTM(3)
UNITS.initialize((1, 4, 2))
LAYERS = cr.nn.Sequential([cr.nn.Dense(5, activation="relu"), cr.nn.Dense(2)])
LAYERS.initialize((1, 4))
BLOCKS = cr.nn.Sequential([cr.nn.Residual(cr.nn.Sequential([cr.nn.Dense(4), cr.nn.LayerNormalization()])) for _ in range(3)])
BLOCKS.initialize((1, 4))
PAGES = {
    **PROGRAMS,
    "layers": (layered, (np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4),)),
    "recurrent": (recurrent, (np.ones((2, 4, 2), np.float32),)),
    "detached": (detached, (cr.tensor(np.ones(3), requires_grad=True),)),
    "shrinking": (shrinking, (np.array([0.5, -0.5]),)),
    "repeated": (repeated, (np.array([0.5, -1.0, 2.0]),)),
    "nested": (nested, (np.ones((2, 4), np.float32),)),
    "not finite": (faulty, (np.array([1.0, -2.0, 0.0]),)),
    "large": (PROGRAMS["four axes"][0], (np.linspace(-1, 1, 6000).reshape(3, 20, 100),)),
}


class Pages:
    """Opens explorer pages, and remembers what they complain about and ask for."""

    def __init__(self, browser: Any, folder: Path) -> None:
        self.browser, self.folder = browser, folder
        self.complaints: list[str] = []

    def open(self, name: str, size: tuple[int, int] = DESK, place: str = "") -> Any:
        path = self.folder / f"{name.replace(' ', '_')}.html"
        if not path.exists():
            f, inputs = PAGES[name]
            with np.errstate(all="ignore"):
                cr.explore(f, *inputs, path=path)
        context = self.browser.new_context(viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce")
        page = context.new_page()
        page.set_default_timeout(8000)
        page.on("pageerror", lambda error: self.complaints.append(f"{name}: {error}"))
        page.on("console", lambda line: self.complaints.append(f"{name}: {line.text}") if line.type == "error" else None)
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:")) else self.complaints.append(f"{name} asked for {request.url}"),
        )
        page.goto(f"{path.as_uri()}#{place}")
        # What fades in is there at once.
        page.add_style_tag(content="* { transition: none !important; }")
        return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        path = CHROMIUM or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip(f"there is no Chromium: {HOW}")
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


@pytest.fixture
def pages(browser, folder):
    made = Pages(browser, folder)
    yield made
    for context in browser.contexts:
        context.close()
    assert made.complaints == []


def last_step(page):
    return int(page.get_attribute("#scrub", "max"))


def test_the_lectures_numbers_stand_on_the_wires_of_the_neuron(pages):
    page = pages.open("E2", place="step=17")
    shown = page.evaluate("Object.fromEntries(Object.entries(dom.wires).map(([id, w]) => [wire[id].var, [w.value.textContent, w.grad.textContent]]))")
    assert shown == {
        "w0": ["2.00", "−0.20"], "x0": ["−1.00", "0.39"], "w1": ["−3.00", "−0.39"], "x1": ["−2.00", "−0.59"], "w2": ["−3.00", "0.20"],
        "s0": ["−2.00", "0.20"], "s1": ["6.00", "0.20"], "s2": ["4.00", "0.20"], "s3": ["1.00", "0.20"], "n": ["−1.00", "−0.20"],
        "e": ["0.37", "−0.53"], "d": ["1.37", "−0.53"], "neuron": ["0.73", "1.00"],
    }  # fmt: skip


def test_nothing_is_shown_before_it_is_computed(pages):
    page = pages.open("E2")
    assert page.locator(".wire.has-v").count() == 5
    assert page.locator(".wire.has-g").count() == 0
    page.keyboard.press("ArrowRight")
    assert page.locator(".wire.has-v").count() == 6
    page.keyboard.press("End")
    assert page.locator(".wire.has-g").count() == 13
    page.keyboard.press("Home")
    assert page.locator(".wire.has-v").count() == 5


def test_the_line_is_lit_in_the_flat_code_and_in_the_users(pages):
    page = pages.open("E2", place="step=6")
    assert page.inner_text("#flat .now .text") == "e = np.exp(n)"
    assert page.inner_text("#source .now .text").strip() == "e = cr.exp(n)"
    page.keyboard.press("End")
    assert page.locator("#flat .now .text").all_inner_texts() == ["grad_w0 = grad_s0 * x0", "grad_x0 = grad_s0 * w0"]
    assert page.inner_text("#source .now .text").strip() == "s0 = w0 * x0"
    page.click("#source button.code >> nth=1")
    assert page.inner_text("#says").startswith("Forward 2 of 8")


def test_a_gate_says_upstream_times_local_is_downstream(pages):
    page = pages.open("E2", place="step=12")
    words = " ".join(page.inner_text("#gate").split())
    assert "e = 0.37" in words
    assert "(−0.53) × 0.37 = −0.20" in words
    assert "agrees" in words


def test_the_keyboard_does_everything(pages):
    page = pages.open("layers", place="step=99")
    for key, state in (("[", 2), ("]", 0)):
        page.keyboard.press(key)
        assert page.locator(".node.box").count() == state
    page.keyboard.press("/")
    page.keyboard.type("relu")
    page.keyboard.press("Enter")
    assert page.inner_text("#hits") == "1 of 1"
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    assert page.is_visible("#tables table")
    page.keyboard.press("t")
    for key in ("c", "d", "o"):
        page.keyboard.press(key)
    assert "theme=dark" in page.evaluate("location.hash")
    assert "palette=safe" in page.evaluate("location.hash")
    assert "overlay=norm" in page.evaluate("location.hash")
    before = page.get_attribute("#graph", "viewBox")
    page.keyboard.press("+")
    assert page.get_attribute("#graph", "viewBox") != before
    page.keyboard.press("0")
    assert page.get_attribute("#graph", "viewBox") == before
    page.keyboard.press("?")
    assert page.is_visible("#help")


def test_why_is_answered_for_a_unit_that_is_closed(pages):
    page = pages.open("network", place="step=99")
    page.click(".node[aria-label='input W1']")
    page.keyboard.press("w")
    assert "passes nothing on" in page.inner_text(".why")
    assert "it closes all 8 elements" in page.inner_text(".why")
    assert "rectified" in (page.locator(".node.cut").get_attribute("aria-label") or "")


def test_a_gate_shows_its_jacobian_on_request(pages):
    page = pages.open("network", place="step=99")
    page.click(".node[aria-label^='rectified']")
    assert page.locator(".jac").count() == 0
    page.click("#gate .jacobian")
    words = page.inner_text("#gate")
    assert "Diagonal: 24 of 576 entries can be non-zero (4.17%); not forming it saves 4.5 KiB" in words
    assert page.locator(".jac .cell").count() == 24
    assert page.locator("#gate .sr tr").count() == 24
    page.locator(".jac .cell").first.hover()
    assert "∂h[0, 0]/∂t2[0, 0]" in page.inner_text("#tip")
    page.keyboard.press("j")
    assert page.locator(".jac").count() == 0
    page = pages.open("large", place="step=99")
    page.evaluate("choose({ gate: 't1' })")
    page.keyboard.press("j")
    assert "Diagonal: 6,000 of 36,000,000 entries can be non-zero" in page.inner_text("#gate")
    assert "above 400" in page.inner_text("#gate")
    assert "diagonal: 6,000 of 36,000,000" in page.evaluate("tables(), document.getElementById('tables').textContent")


ALL_PATHS = """([name, i, cut]) => {
  const found = [], walk = (v, e, p) => (v === G.output ? found.push(p) : onward(v, e, new Set()).forEach((x) => walk(x.name, x.i, p * x.d)));
  walk(name, i, 1);
  return found.filter((x) => x !== 0).sort((a, b) => Math.abs(b) - Math.abs(a)).slice(0, cut);
}"""


@pytest.mark.parametrize("name", ["E2", "E3", "network", "max", "broadcasting"])
def test_the_paths_of_an_element_add_up_to_its_gradient_and_the_largest_come_first(pages, name):
    page = pages.open(name, place="step=99")
    leaves = page.evaluate("Object.keys(G.vars).filter((n) => G.vars[n].kind !== 'computed' && G.vars[n].grad)")
    for leaf in leaves:
        sums = page.evaluate("(n) => G.vars[n].grad.map((g, i) => routes(n, i).sum)", leaf)
        assert sums == pytest.approx(page.evaluate("(n) => G.vars[n].grad", leaf), rel=1e-4, abs=1e-5)
        best = page.evaluate("(n) => routes(n, 0).found.map((x) => x.product)", leaf)
        assert best == pytest.approx(page.evaluate(ALL_PATHS, [leaf, 0, 8]))


def test_a_path_is_lit_in_the_graph(pages):
    page = pages.open("E3", place="step=99")
    page.click(".node[aria-label='input x']")
    page.keyboard.press("p")
    assert "3 paths. All together they are 2.06, the gradient itself." in page.inner_text("#gate")
    rows = [" ".join(row.split()) for row in page.locator(".routes li").all_inner_texts()]
    assert [row.split()[1] for row in rows] == ["77%", "25%", "−2%"]
    assert rows[0].endswith("x → xpy → xpysqr → den → branch")
    page.click(".routes button >> nth=0")
    assert set(page.evaluate("[...state.why.nodes]")) >= {"leaf:x", "xpy", "xpysqr", "den", "branch", "out:"}
    assert page.locator(".node.path").count() == 7
    page.keyboard.press("Escape")
    assert page.locator(".node.path").count() == 0
    page = pages.open("repeated", place="step=99")
    assert page.evaluate("routes('x', 0).count") == 2, "twice by the same gate, to a sum in which the checkpoint's part is left out"
    assert page.evaluate("[...routes('x', 0).shut].length") == 1


def test_what_the_backward_pass_keeps_and_computes_again_can_be_laid_over(pages):
    page = pages.open("E2", place="step=17&overlay=saved")
    named = page.evaluate("Object.fromEntries(Object.entries(dom.wires).map(([id, w]) => [wire[id].var, w.name.textContent]))")
    assert [name for name, text in named.items() if text == "saved"] == ["w0", "x0", "w1", "x1", "e", "d", "neuron"]
    assert named["s2"] == "s2"
    assert "7 values, 12 B and 16 B of inputs" in page.inner_text("#legend-more")
    page.click(".node[aria-label='input w0']")
    assert "Kept for the backward steps of s0: 4 B." in page.inner_text("#gate")
    page = pages.open("repeated", place="step=99&overlay=saved")
    assert "again ×1" in page.evaluate("Object.values(dom.wires).map((w) => w.name.textContent)")
    assert "1 computed again" in page.inner_text("#legend-more")


@pytest.mark.parametrize(
    ("name", "leaf", "sign", "gate", "says"),
    [
        ("detached", "x", "∅", "t1", "detach cuts the way here"),
        ("not finite", "x", "!", "y", "log(-2) is NaN at [1]"),
        ("shrinking", "x", "↓", None, "shrinks the gradient to"),
        ("network", "W1", "0", "h", "relu(...) passes nothing on at 14 of 24 elements"),
    ],
)
def test_marks_stand_at_the_gates_that_explain_names_and_its_words_in_the_panel(pages, name, leaf, sign, gate, says):
    page = pages.open(name)
    assert page.locator(".mark").count() == 0
    page.keyboard.press("End")
    assert sign in page.locator(".mark text").all_text_contents()
    page.click(f".node[aria-label='input {leaf}']")
    assert says in page.inner_text(".causes")
    page.click(".causes button >> nth=0")
    assert "What happens to gradients here" in page.inner_text("#gate")
    assert says in page.inner_text(".causes")
    assert gate is None or page.evaluate("state.pick.gate") == gate
    assert says in page.evaluate("tables(), document.getElementById('tables').textContent")


def test_dead_units_are_counted_at_the_gates_that_close(pages):
    page = pages.open("network", place="step=99&overlay=dead")
    assert page.evaluate("Object.values(dom.nodes).map((x) => x.below?.textContent).filter(Boolean)") == ["33%"]
    page.click(".node[aria-label^='rectified']")
    assert "1 of 3 units is dead" in page.inner_text("#gate")
    assert page.evaluate("G.gates.h.units") == [0.375, 0.375, 1]


def test_the_arrows_walk_over_a_heat_map(pages):
    page = pages.open("network", place="step=99")
    page.click(".node[aria-label='input W1']")
    page.locator(".maps svg[tabindex]").first.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    assert page.inner_text("#spoken").startswith("W1[1, 1]: value")
    assert page.evaluate("state.elem") == 4
    assert page.evaluate("state.step") == last_step(page), "the graph has not stepped"


def test_what_is_not_finite_and_what_is_absent_stand_in_words(pages):
    page = pages.open("not finite", place="step=99")
    page.click(".node[aria-label='input x']")
    assert "1 infinite" in page.inner_text("#gate")
    assert page.evaluate("G.vars.y.value") == pytest.approx([0.0, float("nan"), float("-inf")], nan_ok=True)
    page = pages.open("network", place="step=99")
    page.click(".node[aria-label='data y']")
    assert "int64 has no gradient" in page.inner_text("#gate")


def test_tensors_of_many_axes_have_sliders_and_large_ones_are_thinned(pages):
    page = pages.open("large", place="step=99")
    page.click(".node[aria-label='input x']")
    assert page.locator(".axis-pick").count() == 1
    cells = page.locator(".maps figure >> nth=0").locator(".cell").count()
    assert 0 < cells <= 256
    page.locator(".axis-pick input").fill("1")
    page.locator(".axis-pick input").dispatch_event("change")
    assert page.evaluate("lead.x") == [1]
    page.locator(".maps .cell").first.hover()
    assert "x[" in page.inner_text("#tip")


EVERYTHING = """(crowded) => {
  const look = eval(crowded), found = new Set(), see = (where) => look().forEach((x) => found.add(`${where}: ${x}`));
  for (let i = 0; i <= LAST; i++) { go(i, false); see(`step ${i}`); }
  for (const name of Object.keys(OVERLAYS)) { overlay(name); see(name); }
  overlay("none");
  for (const id of Object.keys(G.gates).slice(0, 5)) {
    choose({ gate: id });
    for (const n of [0, 1]) { nextJacobian(); see(`Jacobian ${n} of ${id}`); }
  }
  for (const name of Object.keys(G.vars).slice(0, 6)) {
    choose({ var: name, wire: trunk[name] });
    for (const act of [".routes-of", ".routes button", ".act button[aria-pressed]"]) {
      document.querySelector(act)?.click();
      see(`${act} of ${name}`);
    }
  }
  toggleTables(true); see("tables");
  return [...found].sort();
}"""


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("name", PAGES)
def test_no_text_lies_on_another(pages, name, size):
    assert pages.open(name, size).evaluate(EVERYTHING, CROWDED) == []


MEETING = """() => {
  const found = [], places = Object.entries(L.nodes).map(([id, [x, y, w, h]]) => [id, x - w / 2, y - h / 2, x + w / 2, y + h / 2]);
  const seats = Object.entries(L.wires).map(([id, { seat: [x, y, w, h] }]) => [id, x - w / 2, y - h / 2, x + w / 2, y + h / 2]);
  const titles = Object.entries(L.groups).map(([id, [x, y, w]]) => [`title of ${id}`, x + 4, y + 4, x + 120, y + 26]);
  const all = [...places, ...seats, ...titles];
  all.forEach(([a, l, t, r, b], i) => all.slice(i + 1).forEach(([c, l2, t2, r2, b2]) => {
    if (l + 1 < r2 && l2 + 1 < r && t + 1 < b2 && t2 + 1 < b) found.push(`${a} and ${c}`);
  }));
  const at = Object.fromEntries(places.map(([id, ...box]) => [id, box]));
  const near = ([l, t, r, b], x, y) => x > l - 4 && x < r + 4 && y > t - 4 && y < b + 4;
  for (const w of G.wires) {
    const tail = nodeOf(w.from), head = nodeOf(w.to), place = L.wires[w.id];
    if (tail === head) { if (place) found.push(`${w.id} is inside`); continue; }
    if (!near(at[tail], ...place.before.slice(0, 2)) || !near(at[head], ...place.after.slice(-2))) found.push(`${w.id} hangs loose`);
    for (const [name, ...box] of titles) for (const curve of [place.before, place.after]) for (let i = 0; i < curve.length; i += 6) {
      if (near(box, curve[i], curve[i + 1])) found.push(`${w.id} behind the ${name}`);
    }
  }
  return found;
}"""


def test_any_set_of_boxes_unfolds_and_nothing_meets(pages):
    page = pages.open("nested", place="step=99")
    boxes = page.evaluate("G.groups.map((g) => g.id)")
    assert len(boxes) == 3 + 3 + 6
    inner = [box for box in boxes if box.startswith("layers.1")]
    for folded in ([], boxes, boxes[:1], boxes[-4:], inner, inner[1:], [box for box in boxes if box not in inner], inner[2:3]):
        page.evaluate("(folded) => { state.folded = new Set(folded); redraw(); }", folded)
        assert page.evaluate(MEETING) == [], f"with {folded} folded"
        assert page.evaluate(CROWDED) == [], f"with {folded} folded"
    page.evaluate("foldAll(true)")
    page.click(".node[aria-label^='layers.1, folded']")
    page.click(".node[aria-label^='layer, folded']")
    assert set(page.evaluate("[...state.folded]")) == {*boxes} - {"layers.1", "layers.1.layer"}
    assert page.locator(".node.box").count() == 2 + 2
    page.click("text=− layers.1")
    assert page.locator(".node.box").count() == 3


def test_the_look_for_crowded_text_finds_it(pages):
    page = pages.open("E2", place="step=17")
    assert page.evaluate(CROWDED) == []
    page.evaluate("dom.wires[trunk.e].value.setAttribute('y', dom.wires[trunk.e].grad.getAttribute('y'))")
    assert page.evaluate(CROWDED) != []


def test_an_unknown_version_of_the_data_is_refused(pages, browser, tmp_path):
    f, inputs = PAGES["E1"]
    path = cr.explore(f, *inputs, path=tmp_path / "old.html")
    path.write_text(re.sub(r'"version":\d+', '"version":99', path.read_text(encoding="utf-8"), count=1), encoding="utf-8")
    page = browser.new_context().new_page()
    page.goto(path.as_uri())
    assert "version 99" in page.inner_text("body")


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "several outputs"])
def test_the_pages_own_code_gives_the_librarys_numbers(pages, name):
    page = pages.open(name, place="step=99")
    found, known, gates = page.evaluate("[recompute(given), G.vars, G.gates]")

    def same(ours, theirs, what):
        np.testing.assert_allclose(np.ravel(ours).astype(float), np.ravel(theirs).astype(float), rtol=1e-4, atol=1e-4, err_msg=what)

    for key, x in known.items():
        same(found["value"][key], x["value"], key)
        if x["grad"] is not None:
            same(found["grad"][key], x["grad"], f"gradient of {key}")
    for key, gate in gates.items():
        for slot, down in enumerate(gate["down"] if gate["op"] != "copy" and "down" in found else ()):
            assert (down is None) == (found["down"][key][slot] is None)
            if down is not None:
                same(found["down"][key][slot], down, f"sent by {key} to operand {slot}")


def test_an_edited_element_is_computed_with_at_once(pages):
    f, inputs = PROGRAMS["network"]
    page = pages.open("network", place="step=99")
    page.evaluate("setElement('W1', 2, '-4', false)")
    moved = [np.array(x) for x in inputs]
    moved[0].flat[2] = -4
    value, gradients = cr.value_and_grad(f, argnums=(0, 1, 2, 3, 4))(*moved)
    assert page.evaluate("G.vars[G.output].value[0]") == pytest.approx(float(value))
    for name, gradient in zip(("W1", "b1", "W2", "b2", "X"), gradients, strict=True):
        # The page computes with inputs of six digits.
        np.testing.assert_allclose(page.evaluate(f"G.vars.{name}.grad"), np.ravel(gradient), rtol=1e-3, atol=1e-5)


def test_an_element_is_changed_in_its_heat_map_by_click_and_by_keyboard(pages):
    page = pages.open("network", place="step=99")
    page.click(".node[aria-label='input X']")
    page.locator(".maps figure >> nth=0").locator(".cell >> nth=5").click()
    page.keyboard.type("3.5")
    page.keyboard.press("Enter")
    assert page.evaluate("[given.X[5], G.vars.X.value[5]]") == [3.5, 3.5]
    assert "agrees" in page.inner_text("#gate")
    assert page.locator(".mark").count() == 0, "the words of explain were of other values"
    # Jacobians, and with them the paths, follow.
    assert page.evaluate("routes('X', 5).sum") == pytest.approx(page.evaluate("G.vars.X.grad[5]"), rel=1e-5)
    assert page.evaluate("G.gates.h.units[2]") == 1
    page.keyboard.press("Escape")
    page.click(".node[aria-label='input X']")
    page.locator(".maps svg[tabindex]").first.focus()
    for key in ("ArrowDown", "Enter", "7", "Enter"):
        page.keyboard.press(key)
    assert page.evaluate("given.X[0]") == 7
    page.click("text=Reset")
    assert page.evaluate("G.vars.X.value[5]") == pytest.approx(PROGRAMS["network"][1][4].flat[5], rel=1e-5)
    assert page.locator(".mark").count() > 0
    assert page.evaluate("edited") is False


def test_an_edited_input_is_computed_with_at_once(pages):
    page = pages.open("E2", place="step=99")
    page.fill("#in-w0", "0")
    assert page.evaluate("G.vars.x0.grad[0]") == 0
    assert page.evaluate("G.vars.neuron.value[0]") == pytest.approx(1 / (1 + np.exp(-3.0)))
    page.click(".node[aria-label='input x0']")
    page.keyboard.press("w")
    assert "is 0" in page.inner_text(".why")
    page.click("text=Reset")
    assert page.evaluate("G.vars.neuron.value[0]") == pytest.approx(0.731059, abs=1e-5)
    page = pages.open("E3", place="step=99")
    page.fill("#in-x", "1")
    x, y = np.float64(1.0), np.float64(-4.0)
    found = cr.grad(PROGRAMS["E3"][0], argnums=(0, 1))(cr.asarray(x), cr.asarray(y))
    assert page.evaluate("[G.vars.x.grad[0], G.vars.y.grad[0]]") == pytest.approx([float(g) for g in found], rel=1e-9)
    assert "agrees" in page.inner_text("#gate")


def test_what_javascript_has_no_words_for_is_not_edited_in_the_page(pages):
    page = pages.open("several outputs")
    assert page.evaluate("recompute") is None


def test_the_network_plays(pages):
    page = pages.open("network")
    page.click("#play")
    page.wait_for_function("state.step >= 2")
    page.click("#play")
    assert network.__doc__.split(",")[0] in page.inner_text("#subtitle")
