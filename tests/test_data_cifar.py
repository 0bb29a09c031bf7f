"""CIFAR-10's binary files, packed or not: what is read, and what is refused."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from chainrule import data
from chainrule.core.errors import ArgumentError, DataError

NAMES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")


def part(seed: int, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, 10, count)


def packed(images: np.ndarray, labels: np.ndarray) -> bytes:
    """Label, red plane, green plane, blue plane, image after image."""
    return b"".join(
        bytes([label]) + image[..., 0].tobytes() + image[..., 1].tobytes() + image[..., 2].tobytes() for image, label in zip(images, labels)
    )


FILES = {name: packed(*part(seed)) for seed, name in enumerate(NAMES)}


def archive() -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        for name, content in FILES.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return whole.getvalue()


def lay_out(folder: Path, how: str) -> Path:
    place = folder / "cifar-10-batches-bin" if how == "folder" else folder
    place.mkdir(exist_ok=True)
    if how == "archive":
        (place / "cifar-10-binary.tar.gz").write_bytes(archive())
    else:
        for name, content in FILES.items():
            (place / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("how", ["files", "folder", "archive"])
def test_images_have_their_colours_last_and_labels_their_names(tmp_path: Path, how: str) -> None:
    train, test = (data.cifar10(lay_out(tmp_path, how), split) for split in ("train", "test"))
    images, labels = (np.concatenate(parts) for parts in zip(*(part(seed) for seed in range(5)), strict=True))
    np.testing.assert_array_equal(train.inputs, images)
    np.testing.assert_array_equal(train.targets, labels)
    np.testing.assert_array_equal(test.inputs, part(5)[0])
    assert train.take([0])[0].max() <= 1
    assert (train.classes, train.class_names[0], train.class_names[9]) == (10, "airplane", "truck")
    assert not (tmp_path / "cifar-10-batches-bin" / "out").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "truncated"),
        (FILES["test_batch.bin"][:-1], "truncated"),
        (bytes([10]) + bytes(3072), "label 10"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (lay_out(tmp_path, "files") / "test_batch.bin").write_bytes(content)
    with pytest.raises(DataError, match=f"test_batch.bin .*{says}"):
        data.cifar10(tmp_path, "test")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (lay_out(tmp_path, "files") / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin does not exist"):
        data.cifar10(tmp_path)
    with pytest.raises(DataError, match=r"neither data_batch_1\.bin nor cifar-10-binary\.tar\.gz"):
        data.cifar10(tmp_path / "nowhere")
    with pytest.raises(ArgumentError, match='"train"'):
        data.cifar10(tmp_path, "validation")


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    whole = archive()
    for end in range(0, len(whole) * 9 // 10, len(whole) // 20):
        (tmp_path / "cifar-10-binary.tar.gz").write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"cannot be unpacked|has no"):
            data.cifar10(tmp_path, "test")


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz"):
        pass
    with pytest.raises(DataError, match=r"has no test_batch\.bin"):
        data.cifar10(tmp_path, "test")


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return pytest.fail, ("it was unpickled",)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    place = tmp_path / "cifar-10-batches-py"
    place.mkdir()
    (place / "data_batch_1").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match="is a pickle, and not read"):
        data.cifar10(tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError):
        data.cifar10(tmp_path)
