"""The explorer page in a real browser: it opens, steps, shows numbers, obeys the keyboard, and no text lies on another."""

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

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=f"there is no Chromium: {HOW}")]


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


UNITS = cr.nn.LSTM(3)
UNITS.initialize((1, 4, 2))
LAYERS = cr.nn.Sequential([cr.nn.Dense(5, activation="relu"), cr.nn.Dense(2)])
LAYERS.initialize((1, 4))
PAGES = {
    **PROGRAMS,
    "layers": (layered, (np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4),)),
    "recurrent": (recurrent, (np.ones((2, 4, 2), np.float32),)),
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
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
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


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("name", PAGES)
def test_no_text_lies_on_another(pages, name, size):
    page = pages.open(name, size)
    found: set[str] = set()
    for step in range(last_step(page) + 1):
        found.update(f"step {step}: {line}" for line in page.evaluate(CROWDED))
        page.keyboard.press("ArrowRight")
    for overlay in ("norm", "zero", "time", "bytes", "odd"):
        page.evaluate(f"overlay('{overlay}')")
        found.update(f"{overlay}: {line}" for line in page.evaluate(CROWDED))
    assert sorted(found) == []


def test_the_look_for_crowded_text_finds_it(pages):
    page = pages.open("E2", place="step=17")
    assert page.evaluate(CROWDED) == []
    page.evaluate("dom.wires[trunk.e].value.setAttribute('y', dom.wires[trunk.e].grad.getAttribute('y'))")
    assert page.evaluate(CROWDED) != []


def test_an_unknown_version_of_the_data_is_refused(pages, browser, tmp_path):
    f, inputs = PAGES["E1"]
    path = cr.explore(f, *inputs, path=tmp_path / "old.html")
    path.write_text(path.read_text(encoding="utf-8").replace('{"version":1,', '{"version":99,'), encoding="utf-8")
    page = browser.new_context().new_page()
    page.goto(path.as_uri())
    assert "version 99" in page.inner_text("body")


@pytest.mark.parametrize("name", ["E1", "E2", "E3"])
def test_the_pages_own_code_gives_the_librarys_numbers(pages, name):
    page = pages.open(name, place="step=99")
    assert page.evaluate("G.live")
    near = "Math.abs(r.value[k] - v.value[0]) < 1e-4 && Math.abs(r.grad[k] - v.grad[0]) < 1e-4"
    assert (
        page.evaluate(f"(() => {{ const r = recompute(given); return Object.entries(G.vars).filter(([k, v]) => !({near})).map(([k]) => k); }})()")
        == []
    )


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


def test_a_network_is_not_edited_in_the_page(pages):
    page = pages.open("network")
    assert page.evaluate("recompute") is None
    assert page.locator(".inputs").count() == 0


def test_the_network_plays(pages):
    page = pages.open("network")
    page.click("#play")
    page.wait_for_function("state.step >= 2")
    page.click("#play")
    assert network.__doc__.split(",")[0] in page.inner_text("#subtitle")
