"""Data sets of every kind: what is taken from them, what they are split into; the ones made on the spot; transforms."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chainrule as cr
from chainrule import data
from chainrule.core.errors import ArgumentError, DataError, ShapeError
from chainrule.data import DataLoader, Dataset, transforms

# What is taken


@pytest.mark.parametrize(
    ("inputs", "scale", "dtype", "first"),
    [
        (np.array([[255, 0]], np.uint8), 255, np.float32, [1, 0]),
        (np.array([[3, 5]], np.uint8), None, np.int64, [3, 5]),
        (np.array([[0.5, 1]], np.float64), None, np.float32, [0.5, 1]),
        (np.array([[0.5, 1]], np.float64), 2, np.float32, [0.25, 0.5]),
        (np.array([[3, 5]], np.int64), 1, np.float32, [3, 5]),
    ],
)
def test_pixels_come_scaled_numbers_as_float32_and_tokens_as_int64(inputs: np.ndarray, scale: float | None, dtype: type, first: list[float]) -> None:
    taken, _ = Dataset(inputs, [0], scale=scale).take([0])
    assert taken.dtype == dtype
    assert taken.tolist() == [first]


def test_integers_as_targets_are_classes_and_real_numbers_are_values() -> None:
    labels = Dataset(np.zeros((3, 2)), np.array([0, 4, 1], np.uint8))
    assert (labels.classes, labels.take([1])[1].dtype) == (5, np.int64)
    values = Dataset(np.zeros((3, 2)), [[0.0], [4.0], [1.0]])
    assert (values.classes, values.take([1])[1].dtype, values.take([1])[1].tolist()) == (None, np.float32, [[4]])
    sequences = Dataset(np.zeros((2, 3), int), np.array([[0, 1, 2], [1, 2, 0]]), classes=7)
    assert (sequences.classes, sequences.take([0])[1].tolist()) == (7, [[0, 1, 2]])


def test_data_that_make_no_sense_are_refused() -> None:
    for refused, says in (
        (lambda: Dataset(np.zeros((2, 2)), [0, -1]), "targets from -1 to 0"),
        (lambda: Dataset(np.zeros((2, 2)), [0, 1], class_names=["a"]), "targets from 0 to 1 for 1 classes"),
        (lambda: Dataset(np.zeros((2, 2)), [0, 1], classes=2, class_names=["a"]), "1 names for 2 classes"),
        (lambda: Dataset(np.zeros((2, 2)), ["a", "b"]), "targets of dtype <U1"),
        (lambda: Dataset(np.zeros((2, 2), bool), [0, 1]), "inputs of dtype bool"),
        (lambda: Dataset(1.0, [0]), r"shape \(\)"),
        (lambda: Dataset(np.zeros((2, 2)), [0, 1], scale=0), "scale=0"),
        (lambda: Dataset(np.zeros((2, 2)), [0, 1]).split(0.1), "leaves one side empty"),
        (lambda: Dataset(np.zeros((2, 2)), [0, 1]).split(1), "fraction=1"),
    ):
        with pytest.raises((DataError, ArgumentError), match=says):
            refused()


def test_nothing_is_written_to_a_data_set() -> None:
    images = np.zeros((2, 2))
    found = Dataset(images, [0, 1])
    with pytest.raises(ValueError, match="read-only"):
        found.inputs[0] = 1
    images[0] = 1


@given(count=st.integers(2, 60), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 100))
def test_a_split_deals_out_every_example_once(count: int, fraction: float, seed: int) -> None:
    whole = Dataset(np.arange(count)[:, None], np.arange(count) % 3, classes=3, name="all")
    if not 0 < round(count * fraction) < count:
        return
    train, held_out = whole.split(fraction, seed)
    assert len(held_out) == round(count * fraction)
    assert sorted([*train.inputs[:, 0], *held_out.inputs[:, 0]]) == list(range(count))
    assert (train.classes, held_out.classes, held_out.name) == (3, 3, "all held out")
    np.testing.assert_array_equal(train.inputs[:, 0] % 3, train.targets)


def test_a_split_depends_on_its_seed_alone() -> None:
    whole = Dataset(np.arange(20)[:, None], np.zeros(20, int))
    parts = [whole.split(0.25, seed)[1].inputs[:, 0].tolist() for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    # Written down: no version of anything may change it.
    assert parts[0] == WRITTEN_DOWN["split"]


def test_a_subset_is_chosen_by_slice_numbers_or_a_mask() -> None:
    whole = Dataset(np.arange(6.0)[:, None], np.array([0, 1, 0, 1, 2, 2]))
    for indices, left in ((slice(1, 3), [1, 2]), ([5, 0], [5, 0]), (whole.targets == 1, [1, 3])):
        part = whole.subset(indices, name="part")
        assert part.inputs[:, 0].tolist() == left
        assert (part.classes, part.name) == (3, "part")


def test_a_mapped_data_set_gives_what_the_functions_make_of_it_one_after_the_other() -> None:
    whole = Dataset(np.arange(6.0).reshape(3, 2), [0, 1, 1])
    mapped = whole.map(lambda x: x + 1).map(lambda x: x.sum(1, keepdims=True) * 2)
    assert mapped.take([0, 2])[0].tolist() == [[6], [22]]
    assert (mapped.input_shape, whole.input_shape) == ((1,), (2,))
    assert mapped.subset([2]).take([0])[0].tolist() == [[22]]
    assert mapped.split(0.3)[1].input_shape == (1,)


# Made on the spot

WRITTEN_DOWN: dict[str, Any] = {
    "split": [3, 10, 13, 14, 19],
    "moons": "82a6bb0da7c1",
    "spirals": "b0cf9ae77fe3",
    "eight_gaussians": "3879632fbd08",
    "copy_task": "906104136414",
    "linear": "d39671dd83da",
}
SETS: dict[str, Callable[..., Dataset]] = {
    "moons": data.moons,
    "spirals": data.spirals,
    "xor": data.xor,
    "eight_gaussians": data.eight_gaussians,
    "copy_task": data.copy_task,
    "linear": data.linear,
}


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_a_function_of_its_seed(name: str) -> None:
    make = SETS[name]
    noise = {"noise": 0.1} if name == "xor" else {}
    first, again, other = (make(count=16, seed=seed, **noise) for seed in (3, 3, 4))
    assert first.inputs.tobytes() + first.targets.tobytes() == again.inputs.tobytes() + again.targets.tobytes()
    assert first.inputs.tobytes() != other.inputs.tobytes()
    if name in WRITTEN_DOWN:
        # Rounded, since sine and cosine differ in their last digit from machine to machine.
        rounded = np.round(first.inputs.astype(np.float64), 4) + 0.0
        assert hashlib.sha256(rounded.tobytes()).hexdigest()[:12] == WRITTEN_DOWN[name]


@pytest.mark.parametrize("name", SETS)
def test_a_set_of_no_examples_is_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match=name):
        SETS[name](count=0)


def test_noise_is_not_negative() -> None:
    with pytest.raises(ArgumentError, match=r"deviation -0\.1"):
        data.moons(noise=-0.1)


def test_moons_without_noise_lie_on_two_half_circles() -> None:
    points, labels = data.moons(100, noise=0).take(slice(None))
    for label, (x, y), side in ((0, (0, 0), 1), (1, (1, 0.5), -1)):
        moon = points[labels == label] - np.float32([x, y])
        np.testing.assert_allclose(np.hypot(*moon.T), 1, atol=1e-6)
        assert (moon[:, 1] * side > -1e-6).all()
    assert np.bincount(labels).tolist() == [50, 50]


def test_arms_of_a_spiral_are_turned_copies_of_one_curve() -> None:
    points, labels = data.spirals(300, classes=3, turns=0.75, noise=0).take(slice(None))
    radius, angle = np.hypot(*points.T), np.arctan2(points[:, 1], points[:, 0])
    expected = 2 * np.pi * (0.75 * radius + labels / 3)
    np.testing.assert_allclose(np.cos(angle - expected), 1, atol=1e-4)
    assert np.bincount(labels).tolist() == [100, 100, 100]
    assert radius.max() <= 1


def test_no_line_parts_exclusive_or() -> None:
    points, labels = data.xor().take(slice(None))
    assert labels.tolist() == (points[:, 0] != points[:, 1]).astype(int).tolist()
    centres = [points[labels == label].mean(0).tolist() for label in (0, 1)]
    assert centres[0] == centres[1]


def test_eight_gaussians_stand_in_a_ring() -> None:
    points, labels = data.eight_gaussians(4000).take(slice(None))
    for mode in range(8):
        own, angle = points[labels == mode], mode * math.pi / 4
        np.testing.assert_allclose(own.mean(0), [2 * math.cos(angle), 2 * math.sin(angle)], atol=0.005)
        np.testing.assert_allclose(own.std(0), 0.02, rtol=0.15)
        assert len(own) == 500


@given(length=st.integers(1, 6), width=st.integers(1, 5))
def test_the_copy_task_asks_for_what_came_before_the_marker(length: int, width: int) -> None:
    inputs, targets = data.copy_task(length, width=width, count=3).take(slice(None))
    np.testing.assert_array_equal(inputs[:, :length, :width], targets)
    marker = inputs[..., width]
    assert marker.sum() == marker[:, length].sum() == 3
    assert not inputs[:, length + 1 :].any()
    assert not inputs[:, length, :width].any()
    assert set(np.unique(targets)) <= {0, 1}


def test_bits_to_copy_are_fair() -> None:
    assert abs(data.copy_task(20, count=500).targets.mean() - 0.5) < 0.01


def test_the_paw_is_as_the_lecture_has_it() -> None:
    # W1 = [-1, 1], b1 = [0.5, -0.5], ReLU, W2 = [2, 2], b2 = -0.5 gives these targets.
    shades, targets = data.paw().take(slice(None))
    hidden = np.maximum(shades @ np.float32([[-1, 1]]) + np.float32([0.5, -0.5]), 0)
    np.testing.assert_array_equal(hidden @ np.float32([[2], [2]]) - np.float32(0.5), targets)
    line = np.column_stack([shades, np.ones(3)])
    assert np.linalg.lstsq(line, targets, rcond=None)[1].item() > 0.5


def test_least_squares_finds_the_line() -> None:
    x, y = data.linear(500, weights=(2.0, -1.0), bias=0.5, noise=0.05).take(slice(None))
    found = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)[0]
    np.testing.assert_allclose(found[:, 0], [2, -1, 0.5], atol=0.02)


# Transforms

RNG = np.random.default_rng(0)
IMAGES = RNG.random((40, 6, 5, 3), np.float32)


def drawing(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def test_standardized_training_data_have_mean_0_and_variance_1_channel_by_channel() -> None:
    scaled = transforms.standardize(IMAGES)(IMAGES)
    np.testing.assert_allclose(scaled.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std((0, 1, 2)), 1, atol=1e-5)
    assert scaled.dtype == np.float32


def test_test_data_are_standardized_by_what_was_measured_on_training_data() -> None:
    train, test = Dataset([[1.0, 7.0], [3.0, 7.0]], [0, 1]), Dataset([[5.0, 8.0]], [0])
    assert test.map(transforms.standardize(train)).take([0])[0].tolist() == [[3, 1]]
    digits = data.digits("train")
    assert abs(digits.map(transforms.standardize(digits)).take(slice(None))[0].mean()) < 1e-5


def test_normalize_turns_bytes_into_float32() -> None:
    found = transforms.normalize(1, 2)(np.array([[3, 5]], np.uint8))
    assert (found.dtype, found.tolist()) == (np.float32, [[1, 2]])


def test_about_half_the_images_are_flipped_left_to_right() -> None:
    flipped = transforms.random_flip()(IMAGES, drawing())
    turned = [np.array_equal(new, old[:, ::-1]) for new, old in zip(flipped, IMAGES, strict=True)]
    same = [np.array_equal(new, old) for new, old in zip(flipped, IMAGES, strict=True)]
    assert all(a != b for a, b in zip(turned, same, strict=True))
    assert 10 < sum(turned) < 30


def test_a_crop_is_a_window_of_the_padded_image_and_every_window_comes_up() -> None:
    images = np.repeat(IMAGES[:1], 400, axis=0)
    cropped = transforms.random_crop(1)(images, drawing())
    padded = np.pad(images[0], ((1, 1), (1, 1), (0, 0)))
    windows = {padded[i : i + 6, j : j + 5].tobytes() for i in range(3) for j in range(3)}
    assert {image.tobytes() for image in cropped} == windows
    np.testing.assert_array_equal(transforms.random_crop(0)(images, drawing()), images)


RANDOM = {
    "flip": transforms.random_flip(),
    "crop": transforms.random_crop(2),
    "both": transforms.compose(transforms.random_crop(2), transforms.random_flip(), transforms.normalize(0.5, 2)),
}


@pytest.mark.parametrize("name", RANDOM)
def test_what_a_transform_does_depends_on_the_source_alone_and_leaves_its_inputs(name: str) -> None:
    before = IMAGES.copy()
    first, again, other = (RANDOM[name](IMAGES, drawing(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(IMAGES, before)
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert (first.shape, first.dtype) == (IMAGES.shape, np.float32)


def test_transforms_are_applied_in_the_order_given() -> None:
    both = transforms.compose(transforms.normalize(1, 1), transforms.normalize(0, 2))
    ((inputs, _),) = DataLoader((np.array([[5.0]]), np.array([0])), transform=both)
    assert inputs.tolist() == [[2]]


def test_transforms_refuse_what_they_cannot_do() -> None:
    for refused, says in (
        (lambda: transforms.random_crop(-1), "padding=-1"),
        (lambda: transforms.random_flip(1.5), "probability=1.5"),
        (lambda: transforms.normalize(0, 0), "deviation of zero"),
        (lambda: transforms.standardize(np.zeros(3)), r"shape \(3,\)"),
        (lambda: transforms.random_flip()(np.zeros((2, 3)), drawing()), r"random_flip: inputs of shape \(2, 3\)"),
        (lambda: transforms.random_crop(1)(np.zeros((2, 3)), drawing()), r"random_crop: inputs of shape \(2, 3\)"),
    ):
        with pytest.raises((ArgumentError, ShapeError), match=says):
            refused()


def test_what_is_made_inside_a_gradient_or_no_grad_is_the_same() -> None:
    expected = data.moons(10).inputs.tobytes()
    with cr.no_grad():
        assert data.moons(10).inputs.tobytes() == expected
    found: list[bytes] = []
    cr.grad(lambda x: (found.append(data.moons(10).inputs.tobytes()), x)[1])(1.0)
    assert found == [expected]
