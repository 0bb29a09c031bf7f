"""The loader's laws: an epoch is a permutation, stopping changes nothing, making ahead changes nothing and leaves no thread."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.core.errors import ArgumentError, DataError, GradientError
from chainrule.data import DataLoader, Dataset
from chainrule.data.ahead import NAME, ahead


def noisy(inputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return inputs + rng.random(inputs.shape, np.float32) / 2


def counting(count: int) -> Dataset:
    return Dataset(np.arange(count, dtype=np.float32)[:, None], np.zeros(count, int))


def given_out(batches: Any) -> list[bytes]:
    return [inputs.numpy().tobytes() for inputs, _ in batches]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    assert threads() == []
    yield
    assert threads() == []


LOADERS = {
    "count": st.integers(1, 40),
    "batch_size": st.integers(1, 12),
    "seed": st.integers(0, 2**63),
    "drop_last": st.booleans(),
    "prefetch": st.integers(0, 4),
}


@given(**LOADERS)
@settings(max_examples=50, deadline=None)
def test_every_epoch_is_a_permutation(count: int, batch_size: int, seed: int, drop_last: bool, prefetch: int) -> None:
    loader = DataLoader(counting(count), batch_size, shuffle=True, seed=seed, drop_last=drop_last, prefetch=prefetch)
    for epoch in range(2):
        sizes = [len(inputs) for inputs, _ in loader]
        assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
        assert len(sizes) == len(loader)
        assert sum(sizes) == (count - count % batch_size if drop_last else count)
        assert sorted(loader.order(epoch)) == list(range(count))


@given(**LOADERS, stop=st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_stopping_anywhere_changes_nothing(count: int, batch_size: int, seed: int, drop_last: bool, prefetch: int, stop: int) -> None:
    def loader() -> DataLoader:
        return DataLoader(counting(count), batch_size, shuffle=True, seed=seed, drop_last=drop_last, prefetch=prefetch, transform=noisy)

    whole, stopped, resumed = loader(), loader(), loader()
    expected = [given_out(whole) for _ in range(2)]
    batches = iter(stopped)
    before = [next(batches) for _ in range(min(stop, len(stopped)))]
    state = stopped.state_dict()
    # What was made ahead was not given out.
    assert state["position"] == len(before)
    batches.close()  # type: ignore[attr-defined]
    resumed.load_state_dict(state)
    assert given_out(before) + given_out(resumed) == expected[0]
    assert given_out(resumed) == expected[1]


@given(**LOADERS)
@settings(max_examples=50, deadline=None)
def test_making_ahead_changes_nothing(count: int, batch_size: int, seed: int, drop_last: bool, prefetch: int) -> None:
    ahead, plainly = (
        DataLoader(counting(count), batch_size, shuffle=True, seed=seed, drop_last=drop_last, prefetch=number, transform=noisy)
        for number in (prefetch + 1, 0)
    )
    for _ in range(2):
        assert given_out(ahead) == given_out(plainly)
        assert ahead.state_dict() == plainly.state_dict()


# Transforms draw what seed, epoch and position say


def test_what_a_transform_draws_differs_from_batch_to_batch_and_epoch_to_epoch() -> None:
    loader = DataLoader(Dataset(np.zeros((6, 2)), np.zeros(6, int)), 2, transform=noisy)
    drawn = [*given_out(loader), *given_out(loader)]
    assert len(set(drawn)) == 6
    assert len({*drawn, *given_out(DataLoader(loader.dataset, 2, transform=noisy, seed=1))}) == 9


def test_a_transform_gets_arrays_and_leaves_targets_alone() -> None:
    def doubled(inputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        assert type(inputs) is np.ndarray
        return inputs * 2

    ((inputs, targets),) = DataLoader(Dataset([[1.0], [2.0]], [1, 0]), 2, transform=doubled)
    assert inputs.tolist() == [[2], [4]]
    assert targets.tolist() == [1, 0]


# Arrays themselves


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_loader_takes_arrays_and_tensors_as_they_are(kind: Callable[[Any], Any]) -> None:
    columns = kind([np.arange(6.0).reshape(3, 2), cr.tensor([1, 2, 3]), np.arange(3, dtype=np.int8)])
    first, second = DataLoader(columns, 2)
    assert [column.tolist() for column in first] == [[[0, 1], [2, 3]], [1, 2], [0, 1]]
    assert [column.shape for column in second] == [(1, 2), (1,), (1,)]
    assert [column.dtype for column in first] == [np.float64, np.int64, np.int8]


def test_a_loader_takes_one_array() -> None:
    assert [x.tolist() for (x,) in DataLoader(np.arange(3), 2)] == [[0, 1], [2]]


def test_a_loader_takes_a_list_of_examples() -> None:
    examples = [(np.array([1.0, 2.0]), 0), (np.array([3.0, 4.0]), 1)]
    ((inputs, targets),) = DataLoader(examples, 2)
    assert inputs.tolist() == [[1, 2], [3, 4]]
    assert targets.tolist() == [0, 1]


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(DataError, match=r"shapes \(3, 2\), \(4,\)"):
        DataLoader((np.zeros((3, 2)), np.zeros(4)))
    with pytest.raises(DataError, match=r"shapes \(\)"):
        DataLoader((np.array(1.0),))
    with pytest.raises(GradientError):
        DataLoader((cr.tensor([1.0], requires_grad=True),))
    with pytest.raises(ArgumentError, match="prefetch=-1"):
        DataLoader(counting(2), prefetch=-1)


def test_the_callers_arrays_stay_writeable() -> None:
    x = np.zeros((4, 1))
    list(DataLoader((x, x), 2, prefetch=1))
    x[0] = 1


# The thread


class Slow:
    """Examples that take their time, and tell how many were made."""

    def __init__(self, count: int = 8, fail_at: int | None = None) -> None:
        self.count = count
        self.fail_at = fail_at
        self.made: list[int] = []
        self.by: set[str] = set()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[int]:
        if i == self.fail_at:
            raise ZeroDivisionError("no such example")
        time.sleep(0.001)
        self.by.add(threading.current_thread().name)
        self.made.append(i)
        return (i,)


def test_batches_are_made_ahead_by_one_thread_and_no_more_than_asked_for() -> None:
    source = Slow(20)
    batches = iter(DataLoader(source, 1, prefetch=3))
    for taken in range(1, 21):
        assert [x.tolist() for x in next(batches)] == [[taken - 1]]
        assert len(threads()) <= 1
        time.sleep(0.005)
        assert len(source.made) <= taken + 3
    assert source.by == {NAME}
    assert len(list(batches)) == 0


def test_the_thread_works_while_the_consumer_does() -> None:
    source = Slow(4)
    batches = iter(DataLoader(source, 1, prefetch=2))
    next(batches)
    deadline = time.monotonic() + 10
    while len(source.made) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert source.made == [0, 1, 2]
    batches.close()  # type: ignore[attr-defined]


def test_an_exhausted_iterator_leaves_no_thread() -> None:
    batches = iter(DataLoader(Slow(3), 1, prefetch=2))
    for _ in range(3):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)
    assert threads() == []


def test_a_loop_that_is_left_leaves_no_thread() -> None:
    for _ in DataLoader(Slow(), 1, prefetch=2):
        break
    assert threads() == []


def test_an_iterator_that_is_dropped_leaves_no_thread() -> None:
    batches = iter(DataLoader(Slow(), 1, prefetch=2))
    next(batches)
    assert len(threads()) == 1
    del batches
    assert threads() == []


def test_what_was_asked_for_but_not_begun_is_not_made_once_the_loop_is_left() -> None:
    source = Slow(100)
    for _ in DataLoader(source, 1, prefetch=50):
        break
    # One that was taken, and at most what was made meanwhile.
    assert len(source.made) < 25


def test_an_iterator_that_was_never_begun_starts_no_thread() -> None:
    batches = iter(DataLoader(Slow(), 1, prefetch=2))
    assert threads() == []
    del batches


def test_an_iterator_in_a_reference_cycle_leaves_no_thread_once_it_is_collected() -> None:
    batches = iter(DataLoader(Slow(), 1, prefetch=2))
    next(batches)
    cycle: list[object] = [batches]
    cycle.append(cycle)
    del batches, cycle
    gc.collect()
    assert threads() == []


def test_an_iterator_that_the_thread_itself_collects_leaves_no_thread() -> None:
    collected = threading.Event()

    def make(number: int) -> int:
        if number == 1:
            dropped.wait(10)
            gc.collect()
            collected.set()
        return number

    dropped = threading.Event()
    cycle: list[object] = [ahead(make, range(9), 2)]
    next(cycle[0])  # type: ignore[call-overload]
    cycle.append(cycle)
    gc.disable()
    try:
        del cycle
        dropped.set()
        assert collected.wait(10)
    finally:
        gc.enable()
    for thread in threads():
        thread.join(10)


def test_an_error_in_the_loop_leaves_no_thread() -> None:
    def loop() -> None:
        for _ in DataLoader(Slow(), 1, prefetch=2):
            raise KeyError("the loop")

    with pytest.raises(KeyError, match="the loop"):
        loop()
    assert threads() == []


@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_an_error_in_the_data_is_raised_in_its_place_with_its_traceback(prefetch: int) -> None:
    loader = DataLoader(Slow(fail_at=3), 1, prefetch=prefetch)
    given_out: list[int] = []
    with pytest.raises(ZeroDivisionError, match="no such example") as raised:
        given_out.extend(x.item() for (x,) in loader)
    assert given_out == [0, 1, 2]
    assert loader.state_dict()["position"] == 3
    assert "__getitem__" in [frame.name for frame in traceback.extract_tb(raised.tb)]
    assert threads() == []


def test_what_is_set_around_the_loop_holds_for_what_is_made_for_it() -> None:
    def root(inputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.sqrt(inputs - 1)

    with np.errstate(invalid="raise"), pytest.raises(FloatingPointError):
        list(DataLoader(counting(3), 1, prefetch=1, transform=root))


AT_EXIT = """
import numpy as np
import chainrule as cr
batches = iter(cr.data.DataLoader((np.zeros(100),), 1, prefetch=2))
next(batches)
print("done")
"""


def test_a_program_ends_although_an_iterator_is_still_open() -> None:
    ended = subprocess.run([sys.executable, "-W", "error", "-c", AT_EXIT], capture_output=True, text=True, timeout=60, check=True)
    assert (ended.stdout, ended.stderr) == ("done\n", "")
