"""The report of a run: one file that stands alone and says what the run folder's files say."""

from __future__ import annotations

import json
import re
import sys
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.cli import actions, main
from chainrule.cli.reporting import Units, report
from chainrule.training import RunFolder, Watch, fit
from chainrule.view.palettes import LINES, PALETTES

_VOID = {"meta", "img", "br", "circle", "rect", "path", "line", "polyline", "ellipse"}


class _Page(HTMLParser):
    """Checks that every tag is closed in turn; keeps the texts and the tables' rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.tables: list[dict[str, list[str]]] = []
        self.links: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def table(self, head: str) -> dict[str, list[str]]:
        """The rows of the table whose first column has this head."""
        return next(table for table in self.tables if next(iter(table)) == head)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append({})
        elif tag == "tr":
            self._cells: list[str] = []
        elif tag in ("td", "th"):
            self._cells.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag
        if tag == "tr":
            self.tables[-1][self._cells[0]] = self._cells[1:]

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self._cells[-1] += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "digits"
    assert main(["train", "digits", "--epochs", "2", "--report", "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> _Page:
    return _Page((run / "report.html").read_text(encoding="utf-8"))


def _epochs(run: Path) -> list[dict[str, float]]:
    return [record for record in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if record["kind"] == "epoch"]


def _watched(run: Path, what: str = "watch") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"{what}.jsonl").read_text().splitlines()]


def test_the_report_needs_nothing_else(run: Path, page: _Page) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search("https?://|<script|<link|@import|url\\((?!#)", text)
    assert all(link.startswith("data:") for link in page.links)


def test_its_numbers_are_those_of_the_metrics(run: Path, page: _Page) -> None:
    epochs = _epochs(run)
    for record in epochs:
        cells = page.table("epoch")[str(record["epoch"])]
        assert cells[:4] == [
            f"{record['loss']:.4g}",
            f"{record['accuracy']:.2%}",
            f"{record['validation_loss']:.4g}",
            f"{record['validation_accuracy']:.2%}",
        ]
    assert f"{epochs[-1]['validation_accuracy']:.2%}" in page.words


def test_every_layer_and_parameter_is_named(run: Path, page: _Page) -> None:
    config = json.loads((run / "config.json").read_text())
    listed = page.tables[-1]
    for i, layer in enumerate(config["model"]["config"]["layers"]):
        assert listed[f"layers.{i}"][0] == layer["class"]
    for name, measured in _watched(run)[-1]["parameters"].items():
        assert page.table("parameter")[name][0] == f"{measured['gradient']:.4g}"
        assert page.table("parameter")[name][2] == f"{measured['update']:.4g}"


def test_it_shows_flat_code_that_runs(page: _Page) -> None:
    code = next(text for text in page.words if "import numpy as np" in text)
    space: dict[str, object] = {}
    exec(code, space)
    assert any(name.startswith("layers_") for name in space)


def test_without_the_option_nothing_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits", "--epochs", "1", "--run-dir", str(tmp_path / "run")]) == 0
    assert not {"report.html", "watch.jsonl", "units.jsonl"} & {path.name for path in (tmp_path / "run").iterdir()}
    assert "report" not in capsys.readouterr().out


def test_a_watched_run_learns_the_same_and_is_resumed_with_its_report(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    schedule = ["--schedule", "constant", "--run-dir", str(folder)]
    assert main(["train", "digits", "--epochs", "1", "--report", *schedule]) == 0
    assert main(["train", "digits", "--epochs", "2", "--resume", *schedule]) == 0
    assert main(["train", "digits", "--epochs", "2", "--schedule", "constant", "--run-dir", str(tmp_path / "plain")]) == 0
    weights, plain = (RunFolder.open(path).read_weights() for path in (folder, tmp_path / "plain"))
    assert all(np.array_equal(weights[name], plain[name]) for name in plain)
    assert [line["epoch"] for line in _watched(folder)] == [line["epoch"] for line in _watched(folder, "units")] == [1, 2]
    assert "2" in _Page((folder / "report.html").read_text(encoding="utf-8")).table("epoch")


@pytest.mark.parametrize("compile", [False, True])
def test_what_is_watched_is_what_the_step_did(compile: bool) -> None:
    x = np.arange(12, dtype=np.float64).reshape(6, 2) / 10
    y = x @ np.array([[1.0], [-2.0]])
    layer = nn.Dense(1, use_bias=False, dtype="float64")
    model = nn.Sequential([layer])
    model.initialize((6, 2), dtype="float64")
    before = np.array(layer.kernel)
    watch = Watch()
    fit(model, (x, y), loss="mean_squared_error", optimizer="sgd", lr=0.5, batch_size=6, progress=False, callbacks=[watch], compile=compile)
    gradient = 2 * x.T @ (x @ before - y) / 6
    (record,) = watch.records
    measured = record["parameters"]["layers.0.kernel"]
    assert measured["gradient"] == pytest.approx(np.linalg.norm(gradient), rel=1e-12)
    assert measured["update"] == pytest.approx(0.5 * np.linalg.norm(gradient) / np.linalg.norm(before), rel=1e-12)


def test_dead_units_are_counted(tmp_path: Path) -> None:
    layer = nn.Dense(4, activation="relu")
    model = nn.Sequential([layer, nn.Dense(1)])
    x, y = np.ones((8, 3), np.float32), np.ones((8, 1), np.float32)
    fit(model, (x, y), loss="mean_squared_error", lr=0.0001, run_dir=tmp_path / "run", progress=False)
    with cr.no_grad():
        dict(layer.named_parameters())["bias"].assign(cr.asarray(np.array([-100, -100, 100, -100], np.float32)))
    page = _Page(report(tmp_path / "run", model, "mean_squared_error", (x, y)).read_text(encoding="utf-8"))
    assert page.table("layer")["layers.0"][:3] == ["relu", "3 of 4", "75.0%"]


def test_dead_units_are_counted_after_every_epoch_and_drawn(tmp_path: Path) -> None:
    class Killing(cr.training.Callback):
        def epoch(self, trainer: cr.training.Trainer, record: dict[str, Any]) -> None:
            bias = dict(trainer.model.named_parameters())["layers.0.bias"]
            with cr.no_grad():
                bias.assign(cr.where(cr.arange(4) < record["epoch"], -100.0, 100.0))

    model = nn.Sequential([nn.Dense(4, activation="relu"), nn.Dense(1)])
    x, y = np.ones((8, 3), np.float32), np.ones((8, 1), np.float32)
    units = Units("mean_squared_error", (x, y))
    fit(model, (x, y), loss="mean_squared_error", lr=1e-4, epochs=3, run_dir=tmp_path / "run", progress=False, callbacks=[Killing(), units])
    assert [line["gates"][0]["dead"] for line in _watched(tmp_path / "run", "units")] == [1, 2, 3]
    text = report(tmp_path / "run", model, "mean_squared_error", (x, y)).read_text(encoding="utf-8")
    (line,) = re.findall(r'class="spark dead".*?points="(.*?)"', text)
    heights = [float(point.split(",")[1]) for point in line.split()]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] > heights[1] > heights[2]


def test_dropout_takes_time_as_it_does_in_training(tmp_path: Path) -> None:
    model = nn.Sequential([nn.Dense(64), nn.Dropout(0.5), nn.Dense(3)])
    x, y = np.ones((6, 2), np.float32), np.arange(6) % 3
    fit(model, (x, y), run_dir=tmp_path / "run", progress=False)
    page = _Page(report(tmp_path / "run", model, "softmax_cross_entropy", (x, y)).read_text(encoding="utf-8"))
    assert all(float(page.tables[-1]["layers.1"][column]) > 0 for column in (6, 7))


def test_the_backward_loop_of_a_recurrent_layer_counts_as_the_layers(tmp_path: Path) -> None:
    model = nn.Sequential([nn.LSTM(32), nn.Dense(3)])
    x, y = np.ones((16, 20, 8), np.float32), np.arange(16) % 3
    fit(model, (x, y), run_dir=tmp_path / "run", progress=False)
    page = _Page(report(tmp_path / "run", model, "softmax_cross_entropy", (x, y)).read_text(encoding="utf-8"))
    backward = {layer: float(cells[7]) for layer, cells in page.tables[-1].items() if layer != "layer"}
    assert backward["layers.0"] > backward["layers.1"] + backward["(outside)"]


def test_the_page_and_its_pictures_change_with_the_colour_scheme(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    light, dark = PALETTES["board"], PALETTES["dark"]
    for name in ("paper", "ink", "value", "box"):
        assert f'.picture [fill="{getattr(light, name)}"] {{ fill: var(--{name}) }}' in text
        assert f"--{name}: {getattr(dark, name)}" in text
    curves = b64decode(text.split("data:image/svg+xml;base64,")[1].split('"')[0]).decode()
    assert all(color in curves for color in (light.box, dark.box, *LINES["light"], *LINES["dark"]))


def test_both_passes_are_measured_of_a_network_that_reads_integers(tmp_path: Path) -> None:
    model = nn.Sequential([nn.Embedding(5, 8), nn.Flatten(), nn.Dense(3)])
    x, y = np.arange(12).reshape(6, 2) % 5, np.arange(6) % 3
    fit(model, (x, y), run_dir=tmp_path / "run", progress=False)
    page = _Page(report(tmp_path / "run", model, "softmax_cross_entropy", (x, y)).read_text(encoding="utf-8"))
    costs = page.tables[-1]
    assert list(costs) == ["layer", "layers.0", "layers.1", "layers.2", "(outside)"]
    assert costs["layers.2"][4] == f"{2 * 6 * 16 * 3 + 6 * 3:,}"
    assert all(float(costs[layer][column]) > 0 for layer in ("layers.0", "layers.2") for column in (6, 7))


def test_a_run_that_is_interrupted_in_its_first_epoch_is_resumed_with_its_report(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    class Stopping(cr.training.Callback):
        def step(self, trainer: cr.training.Trainer) -> None:
            if trainer.position.step == 30:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(actions, "Progress", lambda **_: Stopping())
        assert main(["train", "digits", "--epochs", "1", "--report", "--run-dir", str(folder)]) == 130
    assert main(["train", "digits", "--resume", "--run-dir", str(folder)]) == 0
    assert (folder / "report.html").exists()
    assert [line["step"] for line in _watched(folder)] == [46]


def test_without_graphviz_the_report_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    model = nn.Sequential([nn.Dense(3)])
    x, y = np.ones((6, 2), np.float32), np.arange(6) % 3
    fit(model, (x, y), run_dir=tmp_path / "run", progress=False)
    page = _Page(report(tmp_path / "run", model, "softmax_cross_entropy", (x, y)).read_text(encoding="utf-8"))
    assert "chainrule[view]" in " ".join(page.words)
