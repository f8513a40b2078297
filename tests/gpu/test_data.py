"""Batches that are made on the GPU: the same as on the CPU, bit for bit, from data that is sent once."""

from __future__ import annotations

import numpy as np
import pytest

from ministn.autodiff import Tensor
from ministn.data import DataLoader, distortions, random_shift


def invert(images, generator):
    """An augmentation that only NumPy knows."""
    images[generator.random(len(images)) < 0.5] ^= 255
    return images


def loaders(cpu_options, count=23, height=5, width=3):
    images = np.random.default_rng(7).integers(0, 256, (count, height, width), dtype=np.uint8)
    options = {"batch_size": 8, "seed": 3, "mean": 0.1307, "std": 0.3081, **cpu_options}
    return [DataLoader(images, np.arange(count), device=device, **options) for device in ("cpu", "gpu")]


@pytest.mark.parametrize(
    "augment", [None, random_shift(2), random_shift(100), invert], ids=["none", "shift 2", "shift 100", "invert"]
)
@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"drop_last": True}], ids=str)
def test_batches_have_the_bits_of_the_cpu(library, augment, options):
    here, there = loaders({"augment": augment, **options})
    for _ in range(2):  # epochs
        expected, got = list(here), list(there)
        assert len(got) == len(expected) == len(there)
        for (images, labels), (expected_images, expected_labels) in zip(got, expected, strict=True):
            assert isinstance(images, Tensor)
            assert isinstance(labels, library.ndarray)
            assert images.dtype == np.float32
            assert labels.dtype == np.int64
            assert images.data.flags.c_contiguous
            np.testing.assert_array_equal(images.numpy(), expected_images.numpy())
            np.testing.assert_array_equal(labels.get(), expected_labels)
    assert there.epoch == here.epoch == 2


def test_augmentations_may_have_a_size_of_their_own(library):
    images = np.random.default_rng(7).integers(0, 256, (10, 28, 28), dtype=np.uint8)
    here, there = (
        DataLoader(images, np.arange(10), 4, augment=distortions.RotatedScaledTranslated(), device=device)
        for device in ("cpu", "gpu")
    )
    assert there.image_shape == (42, 42)
    for (batch, labels), (expected, expected_labels) in zip(there, here, strict=True):
        assert isinstance(batch.data, library.ndarray)
        assert batch.shape == (len(expected_labels), 1, 42, 42)
        np.testing.assert_array_equal(batch.numpy(), expected.numpy())
        np.testing.assert_array_equal(labels.get(), expected_labels)


def test_every_pixel_value_has_the_bits_of_the_cpu(library):
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    for mean, std in [(0.1307, 0.3081), (0.5, 0.1), (0.0, 1.0)]:
        batches = [
            next(iter(DataLoader(images, [0], mean=mean, std=std, device=device)))[0].numpy()
            for device in ("cpu", "gpu")
        ]
        np.testing.assert_array_equal(*batches)


def test_an_epoch_goes_on_from_any_batch_exactly(library):
    here, there = loaders({"augment": random_shift(1)})
    for start in (0, 1, 3):
        here.epoch = there.epoch = 4
        for (images, labels), (expected_images, expected_labels) in zip(
            there.batches(start), here.batches(start), strict=True
        ):
            np.testing.assert_array_equal(images.numpy(), expected_images.numpy())
            np.testing.assert_array_equal(labels.get(), expected_labels)


def test_the_data_is_sent_once_and_an_epoch_sends_its_order(cupy):
    counts = cupy._stand_in.counts
    there = loaders({"augment": random_shift(1)}, count=64)[1]
    for sent in (3 + 2, 2, 2):  # images, labels and the normalised pixel values; an epoch's order and shifts
        counts.clear()
        assert len(list(there)) == 8
        assert counts["h2d"] == sent
        assert counts["kernel"] == 8  # one for each batch
        assert counts["d2h"] == counts["synchronise"] == 0


def test_bad_device():
    with pytest.raises(ValueError, match="DataLoader: expected a device 'cpu' or 'gpu', got 'cuda'"):
        DataLoader(np.zeros((1, 2, 2), np.uint8), [0], device="cuda")
