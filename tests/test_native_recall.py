"""A step that is kept is found again by its graph, and never by another graph."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.compiler import pipeline
from chainrule.compiler.native import cache, recall
from chainrule.compiler.native.conv_shape import Target
from chainrule.compiler.pipeline import build

pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

X = np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)
Y = np.linspace(2, 3, 12, dtype="float32").reshape(3, 4)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own, in which steps are kept."""
    monkeypatch.setenv("CHAINRULE_CACHE_DIR", str(tmp_path / "code"))
    monkeypatch.delenv("CHAINRULE_CACHE_STEPS", raising=False)
    monkeypatch.setattr(recall, "_library", lambda: "this library")
    return tmp_path / "code"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by a name for every graph that is written as machine code."""
    names: list[str] = []
    emit = pipeline.emit
    monkeypatch.setattr(pipeline, "emit", lambda graph, *args, **kwargs: (names.append(graph.name), emit(graph, *args, **kwargs))[1])
    return names


def native(f: Callable[..., Any], *arrays: Any) -> list[bytes]:
    return [np.asarray(x).tobytes() for x in build(cr.trace(f, *arrays), backend="native").run(*arrays)]


def key(f: Callable[..., Any], *arrays: Any, target: Target | None = None, donate: dict[int, int] | None = None) -> str:
    found = recall.key_of_graph(cr.trace(f, *arrays), target or Target(), donate or {}, ("machine",))
    assert found is not None
    return found


def mixed(x: Any, y: Any) -> Any:
    return cr.tanh(x @ y.T), cr.sum(x * y, axis=0), y[1:]


def test_a_kept_step_gives_the_same_bits_and_is_not_written_again(written: list[str]) -> None:
    before = native(mixed, X, Y)
    assert written == ["mixed"]
    assert native(mixed, X, Y) == before
    assert written == ["mixed"]


def test_results_that_are_inputs_constants_or_come_twice_are_given_back() -> None:
    def several(x: Any, y: Any) -> Any:
        z = x + x
        return y, z, cr.tensor(Y), x, z

    assert native(several, X, Y) == native(several, X, Y) == [np.asarray(a).tobytes() for a in (Y, X + X, Y, X, X + X)]


def test_its_text_is_written_when_somebody_asks_for_it(written: list[str]) -> None:
    first, second = (build(cr.trace(mixed, X, Y), backend="native") for _ in range(2))
    assert written == ["mixed"]
    assert first.source() == second.source()
    assert {**first.stats, "passes": 0} == {**second.stats, "passes": 0}


def test_a_training_step_goes_on_as_the_written_one(written: list[str]) -> None:
    def trained() -> list[bytes]:
        cr.manual_seed(0)
        model = cr.nn.Sequential([cr.nn.Dense(16, activation="tanh"), cr.nn.Dense(3)])
        model(cr.tensor(X))
        optimizer = cr.optim.Adam(model.parameters(), lr=0.1)

        @cr.compile(backend="native")
        def step(x: Any, labels: Any) -> Any:
            optimizer.zero_grad()
            loss = cr.mean(cr.nn.losses.softmax_cross_entropy(model(x), labels))
            loss.backward()
            optimizer.step()
            return loss

        losses, places = list[bytes](), list[list[Any]]()
        for _ in range(4):
            losses.append(step(cr.tensor(X), cr.tensor([0, 2, 1])).numpy().tobytes())
            places.append([x._value.__array_interface__["data"] for x in model.parameters()])
        # In place.
        assert places[1] == places[2] == places[3]
        return losses + [x.detach().numpy().tobytes() for x in model.parameters()]

    before = trained()
    count = len(written)
    assert trained() == before
    assert count == len(written) > 0


def different() -> dict[str, str]:
    x, y, z = X, Y, X[:1]
    return {
        "as it is": key(mixed, x, y),
        "other shapes": key(mixed, x[:, :2], y[:, :2]),
        "another dtype": key(mixed, x.astype("float64"), y),
        "inputs exchanged": key(lambda x, y: mixed(y, x), x, y),
        "outputs exchanged": key(lambda x, y: mixed(x, y)[::-1], x, y),
        "another parameter": key(lambda x, y: (*mixed(x, y)[:2], y[2:]), x, y),
        "fewer outputs": key(lambda x, y: mixed(x, y)[:2], x, y),
        "an output twice": key(lambda x, y: (*mixed(x, y), mixed(x, y)[0]), x, y),
        "memory to take over": key(mixed, x, y, donate={0: 1}),
        "other vectors": key(mixed, x, y, target=Target(32)),
        "halves": key(mixed, x, y, target=Target(halves=True)),
        "a number": key(lambda x: x * 0.0, z),
        "its negative": key(lambda x: x * -0.0, z),
        "not a number": key(lambda x: x * float("nan"), z),
        "a constant": key(lambda x: x * cr.tensor(X), z),
        "another constant": key(lambda x: x * cr.tensor(Y), z),
        "two values": key(lambda x: cr.exp(x) * cr.sin(x), z),
        "one value twice": key(lambda x: cr.exp(x) * cr.exp(x), z),
        "a body": key(lambda x: cr.scan(lambda c, r: (c + r, c), cr.zeros(4), x), x),
        "another body": key(lambda x: cr.scan(lambda c, r: (c - r, c), cr.zeros(4), x), x),
    }


def test_what_is_different_has_another_key() -> None:
    keys = different()
    assert len({*keys.values()}) == len(keys), keys


def test_what_is_the_same_has_the_same_key_in_every_process() -> None:
    body = """
        import sys
        sys.path[:0] = {places!r}
        from test_native_recall import different, recall
        recall._library = lambda: "this library"
        print("\\n".join(different().values()))
    """
    places = [str(Path(cr.__file__).parents[1]), str(Path(__file__).parent)]
    ran = subprocess.run(
        [sys.executable, "-c", dedent(body).format(places=places)],
        env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [*different().values()]


def test_the_machine_and_the_library_are_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = cr.trace(mixed, X, Y)
    keys = {recall.key_of_graph(graph, Target(), {}, (machine,)) for machine in ("one", "another")}
    monkeypatch.setattr(recall, "_library", lambda: "another library")
    assert len(keys | {recall.key_of_graph(graph, Target(), {}, ("one",))}) == 3


def test_gates_that_are_not_the_librarys_own_are_not_kept() -> None:
    graph = cr.trace(mixed, X, Y)
    nodes = [replace(node, primitive=replace(node.primitive)) for node in graph.nodes]
    assert recall.key_of_graph(graph.with_nodes(nodes, graph.outputs), Target(), {}, ()) is None


def test_parameters_of_unknown_kinds_are_not_kept() -> None:
    graph = cr.trace(mixed, X, Y)
    nodes = [replace(node, params={**node.params, "by": object()}) for node in graph.nodes]
    assert recall.key_of_graph(graph.with_nodes(nodes, graph.outputs), Target(), {}, ()) is None


@pytest.mark.parametrize(("name", "value"), [("CHAINRULE_CACHE_STEPS", "0"), ("CHAINRULE_CACHE_DIR", "0"), ("CHAINRULE_NATIVE_DEBUG", "1")])
def test_no_kept_step_runs_where_that_is_switched_off(name: str, value: str, monkeypatch: pytest.MonkeyPatch, written: list[str]) -> None:
    before = native(mixed, X, Y)
    monkeypatch.setenv(name, value)
    assert native(mixed, X, Y) == native(mixed, X, Y) == before
    assert written == ["mixed"] * 3


def test_a_library_that_changed_since_it_was_loaded_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    library = recall._library.__wrapped__
    monkeypatch.setattr(recall, "LOADED", float("inf"))
    assert "recall.py" in str(library())
    monkeypatch.setattr(recall, "LOADED", Path(recall.__file__).stat().st_mtime)
    assert library() is None


def test_a_step_without_its_machine_code_is_written_again(folder: Path, written: list[str]) -> None:
    before = native(mixed, X, Y)
    largest = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    largest.unlink()
    assert native(mixed, X, Y) == before
    assert written == ["mixed"] * 2
    assert native(mixed, X, Y) == before
    assert written == ["mixed"] * 2


@pytest.mark.parametrize("place", [0, 15, 60, -1])
def test_files_that_are_not_whole_do_no_harm(folder: Path, place: int) -> None:
    before = native(mixed, X, Y)
    for path in folder.iterdir():
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
    assert native(mixed, X, Y) == before


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\xe9\x01\x00\x00\x00"])
def test_what_cannot_be_read_is_forgotten(data: bytes, folder: Path) -> None:
    cache.keep("a" * 64, data)
    assert recall.recall("a" * 64) is None
    assert not [*folder.iterdir()]


def test_steps_that_call_back_or_hold_large_constants_are_not_kept(written: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    called = lambda x: cr.linalg.svd(x @ x.T)[1] + 1.0
    assert native(called, X) == native(called, X)
    assert len(written) == 2
    monkeypatch.setattr(recall, "LIMIT", 40)
    large = lambda x: x + cr.tensor(Y)
    assert native(large, X) == native(large, X)
    assert len(written) == 4
