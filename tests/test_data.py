"""Data sets: what they hold, which files are refused and how, and the order in which batches come."""

from __future__ import annotations

import builtins
import gzip
import struct
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from chainrule import data
from chainrule.core.errors import ArgumentError, DataError, MissingExtraError

MNIST = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def idx(array: np.ndarray) -> bytes:
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


def images_and_labels(count: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 28, 28)), rng.integers(0, 10, count)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like MNIST; the training files are gzipped, the test files are not."""
    for split, names in MNIST.items():
        for name, array in zip(names, images_and_labels(), strict=True):
            packed = split == "train"
            (tmp_path / (name + ".gz" * packed)).write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return tmp_path


def one_line(error: DataError, *essentials: str) -> None:
    assert "\n" not in error.what
    for essential in essentials:
        assert essential in str(error)


# The digits


def test_digits_are_split_once_and_for_all_and_class_by_class() -> None:
    train, test, both = (data.digits(split) for split in ("train", "test", "all"))
    assert (len(train), len(test), len(both)) == (1442, 355, 1797)
    for label in range(10):
        share = (test.targets == label).sum() / (both.targets == label).sum()
        assert 0.18 < share <= 0.2
    together = {image.tobytes() for image in train.inputs} | {image.tobytes() for image in test.inputs}
    assert together == {image.tobytes() for image in both.inputs}
    assert train.input_shape == (8, 8, 1)


def test_digits_come_as_floats_from_0_to_1() -> None:
    images, labels = data.digits("train").take(np.arange(100))
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0, 1)
    assert labels.dtype == np.int64


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install \"chainrule\[train\]\""):
        data.digits()


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ArgumentError, match='"train"'):
        data.digits("validation")


# MNIST's files


@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_is_read_gzipped_or_not(folder: Path, split: str) -> None:
    found = data.mnist(folder, split)
    images, labels = images_and_labels()
    np.testing.assert_array_equal(found.inputs[..., 0], images)
    np.testing.assert_array_equal(found.targets, labels)
    assert found.take([0])[0].max() <= 1


def test_a_missing_folder_or_file_is_named(folder: Path) -> None:
    with pytest.raises(DataError) as refused:
        data.mnist(folder / "nowhere")
    one_line(refused.value, "nowhere", "not a folder")
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError) as refused:
        data.mnist(folder)
    one_line(refused.value, "train-labels-idx1-ubyte")


def test_every_truncation_of_a_file_is_refused(tmp_path: Path) -> None:
    whole = idx(np.arange(6).reshape(2, 3))
    path = tmp_path / "file"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError) as refused:
            data.read_idx(path)
        one_line(refused.value, str(path), "truncated" if end >= 4 else "not an IDX file")


def test_every_truncation_of_a_gzipped_file_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(idx(np.arange(6).reshape(2, 3)))
    path = tmp_path / "file.gz"
    for end in range(2, len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError) as refused:
            data.read_idx(path)
        one_line(refused.value, str(path), "truncated")


def test_every_flipped_byte_of_gzipped_values_is_noticed(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(idx(np.random.default_rng(0).integers(0, 256, (4, 5)))))
    path = tmp_path / "file.gz"
    for place in range(10, len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"corrupt|truncated"):
            data.read_idx(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not an IDX file"),
        (b"PK\3\4 a zip archive", "not an IDX file"),
        (b"<html>", "not an IDX file"),
        (idx(np.zeros(4)) + b"\0", "too long"),
        (idx(np.zeros((2, 2))), "2 axes, not 1"),
        (b"\0\0\x08\x01\xff\xff\xff\xff", "truncated"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        data.read_idx(path, ndim=1)
    one_line(refused.value, says)


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        data.read_idx(tmp_path)


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("t10k-labels-idx1-ubyte", np.zeros(19), "20 images, but .* 19 labels"),
        ("t10k-labels-idx1-ubyte", np.full(20, 10), "labels from 10 to 10"),
        ("t10k-images-idx3-ubyte", np.zeros((20, 8, 8)), r"\(8, 8\), not uint8 of \(28, 28\)"),
        ("t10k-images-idx3-ubyte", np.zeros(20), "1 axes, not 3"),
        ("t10k-images-idx3-ubyte", np.zeros((0, 28, 28)), "no images"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(folder: Path, name: str, array: np.ndarray, says: str) -> None:
    (folder / name).write_bytes(idx(array))
    with pytest.raises(DataError, match=says):
        data.mnist(folder, "test")


# Datasets and loaders


def test_a_dataset_refuses_labels_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="3 inputs, but 2 targets"):
        data.Dataset(np.zeros((3, 2)), [0, 1])
    with pytest.raises(DataError, match="targets from 0 to 5 for 3 classes"):
        data.Dataset(np.zeros((2, 2)), [0, 5], classes=3)
    with pytest.raises(DataError, match="3 classes, but targets of dtype float64"):
        data.Dataset(np.zeros((2, 2)), [0.0, 1.0], classes=3)


def counting(count: int) -> data.Dataset:
    return data.Dataset(np.arange(count, dtype=np.float32)[:, None], np.zeros(count, int))


def taken(loader: data.DataLoader) -> list[list[float]]:
    return [images.numpy()[:, 0].tolist() for images, _ in loader]


def test_a_loader_gives_each_example_once_an_epoch() -> None:
    loader = data.DataLoader(counting(10), 4, shuffle=True, seed=1)
    batches = taken(loader)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(number for batch in batches for number in batch) == list(range(10))
    assert taken(loader) != batches


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first, second, other = (data.DataLoader(counting(50), 7, shuffle=True, seed=seed) for seed in (3, 3, 4))
    for _ in range(3):
        assert taken(first) == taken(second)
    assert not np.array_equal(first.order(0), other.order(0))
    # The order is written down: no version of anything may change it.
    assert data.DataLoader(counting(8), shuffle=True, seed=5).order(2).tolist() == [3, 5, 2, 7, 1, 0, 6, 4]


def test_without_shuffling_the_order_is_that_of_the_data() -> None:
    assert taken(data.DataLoader(counting(5), 2)) == [[0, 1], [2, 3], [4]]
    assert taken(data.DataLoader(counting(5), 2, drop_last=True)) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("stop", range(5))
def test_a_resumed_loader_goes_on_where_it_stopped(stop: int) -> None:
    whole = data.DataLoader(counting(10), 3, shuffle=True, seed=2)
    expected = [taken(whole) for _ in range(3)]
    begun = data.DataLoader(counting(10), 3, shuffle=True, seed=2)
    taken(begun)
    batches = iter(begun)
    before = [next(batches)[0].numpy()[:, 0].tolist() for _ in range(min(stop, 4))]
    resumed = data.DataLoader(counting(10), 3, shuffle=True, seed=2)
    resumed.load_state_dict(begun.state_dict())
    assert before + taken(resumed) == expected[1]
    assert taken(resumed) == expected[2]


def test_leaving_an_epoch_early_begins_the_next_one() -> None:
    loader = data.DataLoader(counting(10), 3, shuffle=True)
    next(iter(loader))
    rest = taken(loader)
    assert rest[0] == loader.order(1)[:3].tolist()


def test_a_loader_takes_any_indexed_examples() -> None:
    class Squares:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
            return np.array([i, i * i]), i

    ((pairs, numbers),) = data.DataLoader(Squares(), 3)
    assert pairs.tolist() == [[0, 0], [1, 1], [2, 4]]
    assert numbers.tolist() == [0, 1, 2]


def test_batches_cannot_be_written_to() -> None:
    images, _ = next(iter(data.DataLoader(counting(4), 2)))
    with pytest.raises(ValueError, match="read-only"):
        images.numpy()[0] = 1


def test_rows_of_different_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="inputs of different lengths"):
        data.Dataset([[1.0], [2.0, 3.0]], [0, 1])


def test_a_loader_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ArgumentError, match=r"batch_size=2\.5"):
        data.DataLoader(counting(4), cast("Any", 2.5))
    with pytest.raises(ArgumentError, match="batch_size=0"):
        data.DataLoader(counting(4), 0)
    with pytest.raises(ArgumentError, match="seed=-1"):
        data.DataLoader(counting(4), seed=-1)
    with pytest.raises(ArgumentError, match="seed 1, not 0"):
        data.DataLoader(counting(4)).load_state_dict({"epoch": 0, "position": 0, "seed": 1})
    with pytest.raises(ArgumentError, match="batch 9 of 1"):
        data.DataLoader(counting(4)).load_state_dict({"epoch": 0, "position": 9, "seed": 0})
