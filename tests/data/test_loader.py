"""DataLoader: values, memory layout, orders, exact resume, augmentation, bad input."""

from __future__ import annotations

import numpy as np
import pytest

from ministn.autodiff import Tensor
from ministn.data import DataLoader, random_shift
from ministn.kernels._layout import is_batch_last


def numbered(count: int, height: int = 5, width: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Random images whose label is their number, so that a batch shows where it came from."""
    images = np.random.default_rng(7).integers(0, 256, (count, height, width), dtype=np.uint8)
    return images, np.arange(count)


def labels_of(batches) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches]


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_batch_has_the_normalised_pixels_of_its_labels(shuffle):
    images, numbers = numbered(23)
    for batch, labels in DataLoader(images, numbers, 8, shuffle=shuffle, mean=0.1307, std=0.3081):
        assert isinstance(batch, Tensor)
        assert batch.dtype == np.float32
        assert labels.dtype == np.int64
        assert batch.shape == (len(labels), 1, 5, 3)
        expected = (images[labels].astype(np.float64) / 255 - 0.1307) / 0.3081
        # two float32 roundings of numbers up to 3.3
        np.testing.assert_allclose(batch.data[:, 0], expected, rtol=0, atol=3 * 3.3 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_memory_is_batch_last(batch_size):
    images, numbers = numbered(64)
    batch, _ = next(iter(DataLoader(images, numbers, batch_size)))
    assert is_batch_last(batch.data)
    assert batch.data.strides[0] == 4


def test_without_normalisation_pixels_go_from_0_to_1():
    images = np.array([[[0, 51, 255]]], np.uint8)
    batch, _ = next(iter(DataLoader(images, np.zeros(1, np.int64))))
    # 51 / 255 = 0.2, to one float32 rounding of the factor and one of the product
    np.testing.assert_allclose(batch.data[0, 0, 0], [0, 0.2, 1], rtol=2.5e-7, atol=0)


def test_each_epoch_is_a_permutation_of_its_own_that_the_seed_decides():
    images, numbers = numbered(50)
    loader = DataLoader(images, numbers, 8, seed=3)
    first, second = labels_of(loader), labels_of(loader)
    assert loader.epoch == 2
    assert np.concatenate(first).tolist() == np.random.default_rng([3, 0]).permutation(50).tolist()
    assert np.concatenate(second).tolist() == np.random.default_rng([3, 1]).permutation(50).tolist()
    assert first != second
    assert labels_of(DataLoader(images, numbers, 8, seed=3)) == first
    assert labels_of(DataLoader(images, numbers, 8, seed=4)) != first


def test_without_shuffle_the_order_is_that_of_the_images():
    loader = DataLoader(*numbered(5), 2, shuffle=False)
    assert labels_of(loader) == labels_of(loader) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("count", "batch_size", "drop_last", "sizes"),
    [
        (10, 4, False, [4, 4, 2]),
        (10, 4, True, [4, 4]),
        (8, 4, False, [4, 4]),
        (8, 4, True, [4, 4]),
        (3, 64, False, [3]),
        (3, 64, True, []),
        (0, 4, False, []),
    ],
)
def test_number_and_sizes_of_batches(count, batch_size, drop_last, sizes):
    loader = DataLoader(*numbered(count), batch_size, drop_last=drop_last)
    assert len(loader) == len(sizes)
    assert [len(labels) for _, labels in loader] == sizes


@pytest.mark.parametrize("start", [0, 1, 4, 7])
def test_an_epoch_goes_on_from_any_batch_exactly(start):
    images, numbers = numbered(50)
    whole = DataLoader(images, numbers, 8, seed=5, augment=random_shift(2))
    whole.epoch = 3
    expected = list(whole)[start:]

    resumed = DataLoader(images, numbers, 8, seed=5, augment=random_shift(2))
    resumed.epoch = 3
    got = list(resumed.batches(start))
    assert len(got) == len(expected) == 7 - start
    for (batch, labels), (expected_batch, expected_labels) in zip(got, expected, strict=True):
        np.testing.assert_array_equal(batch.data, expected_batch.data)
        np.testing.assert_array_equal(labels, expected_labels)
    assert resumed.epoch == whole.epoch == 4


def test_an_epoch_broken_off_is_not_counted():
    loader = DataLoader(*numbered(10), 4)
    for _ in loader:
        break
    assert loader.epoch == 0


def test_later_changes_to_the_epoch_do_not_reach_an_iteration_under_way():
    images, numbers = numbered(20)
    expected = labels_of(DataLoader(images, numbers, 6))
    loader = DataLoader(images, numbers, 6)
    iteration = iter(loader)
    loader.epoch = 9
    assert labels_of(iteration) == expected


def test_random_shift_is_its_formula():
    images, _ = numbered(40, height=6, width=4)
    before = images.copy()
    shifted = random_shift(2)(images, np.random.default_rng(1))
    dy, dx = np.random.default_rng(1).integers(-2, 3, (2, 40))
    assert {*dy} == {*dx} == {-2, -1, 0, 1, 2}
    expected = np.zeros_like(images)
    for b, i, j in np.ndindex(images.shape):
        if 0 <= i - dy[b] < 6 and 0 <= j - dx[b] < 4:
            expected[b, i, j] = images[b, i - dy[b], j - dx[b]]
    np.testing.assert_array_equal(shifted, expected)
    assert shifted.dtype == np.uint8
    np.testing.assert_array_equal(images, before)


def test_random_shift_of_zero_moves_nothing_and_a_large_one_may_leave_nothing():
    images, _ = numbered(9)
    np.testing.assert_array_equal(random_shift(0)(images, np.random.default_rng(0)), images)
    assert random_shift(100)(images, np.random.default_rng(0)).shape == images.shape


def test_augmentation_differs_between_batches_and_epochs_and_leaves_the_images_alone():
    drawn = []

    def erase(images, generator):
        drawn.append(generator.integers(0, 2**60))
        images[:] = 0
        return images

    images, numbers = numbered(12)
    before = images.copy()
    loader = DataLoader(images, numbers, 6, augment=erase, shuffle=False)
    for _ in range(2):
        for batch, _ in loader:
            assert not batch.data.any()
    np.testing.assert_array_equal(images, before)
    assert len(set(drawn)) == 4


@pytest.mark.parametrize("wrong", [lambda images, _: images[:, 1:], lambda images, _: images.astype(np.float32)])
def test_augmentation_that_returns_something_else_is_an_error(wrong):
    with pytest.raises(ValueError, match=r"expected augment to return uint8 \(4, 5, 3\), got"):
        next(iter(DataLoader(*numbered(4), 4, augment=wrong)))


class Enlarged:
    """An augmentation whose images are square, and larger."""

    def __init__(self, canvas, returned=None):
        self.canvas, self.returned = canvas, returned or canvas

    def __call__(self, images, generator):
        enlarged = np.zeros((len(images), self.returned, self.returned), np.uint8)
        enlarged[:, :5, :3] = images
        return enlarged


def test_an_augmentation_with_a_canvas_gives_images_of_that_size():
    images, numbers = numbered(10)
    assert (
        DataLoader(images, numbers).image_shape
        == DataLoader(images, numbers, augment=random_shift(1)).image_shape
        == (5, 3)
    )
    loader = DataLoader(images, numbers, 4, augment=Enlarged(9))
    assert loader.image_shape == (9, 9)
    for batch, labels in loader:
        assert batch.shape == (len(labels), 1, 9, 9)
        assert is_batch_last(batch.data)
        # one rounding of the factor and one of the product
        np.testing.assert_allclose(batch.data[:, 0, :5, :3], images[labels] / 255.0, rtol=2.5e-7, atol=0)
        assert batch.data.sum(dtype=float) == pytest.approx(images[labels].sum() / 255.0, rel=2.5e-7)


def test_a_canvas_is_checked():
    with pytest.raises(ValueError, match=r"expected augment to return uint8 \(4, 9, 9\), got uint8 \(4, 8, 8\)"):
        next(iter(DataLoader(*numbered(4), 4, augment=Enlarged(9, returned=8))))
    with pytest.raises(ValueError, match=r"DataLoader: expected augment.canvas to be at least 1, got -2"):
        DataLoader(*numbered(4), 4, augment=Enlarged(-2))
    with pytest.raises(TypeError, match=r"DataLoader: expected augment.canvas to be an integer, got \(9, 9\)"):
        DataLoader(*numbered(4), 4, augment=Enlarged((9, 9)))


GOOD = np.zeros((6, 5, 3), np.uint8)
NUMBERS = np.zeros(6, np.int64)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((GOOD, NUMBERS, 0), {}, ValueError, "expected batch_size to be at least 1, got 0"),
        ((GOOD, NUMBERS, 2.0), {}, TypeError, "expected batch_size to be an integer, got 2.0"),
        ((GOOD.astype(np.float32), NUMBERS), {}, TypeError, "expected images to be uint8, got float32"),
        ((GOOD[:, None], NUMBERS), {}, ValueError, r"expected images of shape \(N, H, W\), got \(6, 1, 5, 3\)"),
        ((GOOD, NUMBERS[:5]), {}, ValueError, r"expected labels of shape \(6,\), one for each image, got \(5,\)"),
        ((GOOD, NUMBERS[:, None]), {}, ValueError, r"expected labels of shape \(6,\), .* got \(6, 1\)"),
        ((GOOD, NUMBERS.astype(float)), {}, TypeError, "expected labels to be integers, got float64"),
        ((GOOD, NUMBERS), {"std": 0.0}, ValueError, "finite std > 0, got mean 0.0 and std 0.0"),
        ((GOOD, NUMBERS), {"mean": np.nan}, ValueError, "expected a finite mean"),
        ((GOOD, NUMBERS), {"seed": -1}, ValueError, "expected seed to be at least 0, got -1"),
    ],
)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=f"DataLoader: .*{message}"):
        DataLoader(*arguments, **options)


def test_bad_start_and_shift():
    loader = DataLoader(GOOD, NUMBERS, 4)
    with pytest.raises(ValueError, match="start to be at most the 2 batches there are, got 3"):
        loader.batches(3)
    with pytest.raises(ValueError, match="start to be at least 0, got -1"):
        loader.batches(-1)
    with pytest.raises(ValueError, match="random_shift: expected max_pixels to be at least 0, got -1"):
        random_shift(-1)
