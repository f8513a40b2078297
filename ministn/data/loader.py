"""Mini-batches: images gathered in a seeded random order, normalised, laid out as the kernels of the device want."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from ministn.autodiff import Tensor
from ministn.backend import Array, check_device, to_device
from ministn.kernels._checks import flag, integer

if TYPE_CHECKING:
    from ministn.data.cuda import Uploaded

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class DataLoader:
    """Iterate over a data set in batches of (normalised images, labels).

    A pixel value v from 0 to 255 becomes (v / 255 - mean) / std.

    Parameters
    ----------
    images : numpy.ndarray of uint8, shape (N, H, W)
    labels : numpy.ndarray of integers, shape (N,)
    batch_size : int
        Images in a batch; the last batch of an epoch has what is left.
    shuffle : bool
        Whether every epoch has a random order of its own; otherwise it is the order of `images`.
    seed : int
        What the orders and the augmentation follow from: epoch e has the same batches in every run.
    mean, std : float
        Where 255 counts as 1, as in `ImageDataset`.
    drop_last : bool
        Leave out a last batch of fewer than `batch_size` images.
    augment : callable, optional
        ``augment(images, generator)`` gets a copy of the batch's images, uint8 (B, H, W), and
        returns as many of the same shape and dtype. The generator follows from seed, epoch and batch.
        If it has an attribute ``canvas``, an integer, it returns images of canvas x canvas pixels instead, as the
        distortions of `ministn.data.distortions` do, and the batches have that size.
    device : {"cpu", "gpu"}
        Where the batches are. On the GPU the whole data set is kept, sent with the first batch, and batches are made
        there; `random_shift` works there too, while images for any other augmentation are made on the CPU and sent
        batch by batch. The batches are the same, bit for bit.

    Attributes
    ----------
    epoch : int
        The epoch that the next iteration goes through, from 0. Coming to an epoch's end adds one; breaking off does
        not, so set it, and use `batches(start)`, to go on exactly where a training run stopped.
    image_shape : (int, int)
        Height and width of the images in the batches.

    Raises
    ------
    TypeError, ValueError
        If an array has the wrong dtype or shape, the two differ in length, or a number is out of range.
    DeviceError
        With the first batch, if `device` is ``"gpu"`` and there is no CuPy, or no GPU that it can use.

    Examples
    --------
    >>> loader = DataLoader(np.zeros((100, 28, 28), np.uint8), np.zeros(100, np.int64), batch_size=64)
    >>> [(x.shape, y.shape) for x, y in loader]
    [((64, 1, 28, 28), (64,)), ((36, 1, 28, 28), (36,))]
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int = 64,
        *,
        shuffle: bool = True,
        seed: int = 0,
        mean: float = 0.0,
        std: float = 1.0,
        drop_last: bool = False,
        augment: Augmentation | None = None,
        device: str = "cpu",
    ) -> None:
        images, labels = np.asarray(images), np.asarray(labels)
        if images.dtype != np.uint8:
            raise TypeError(f"DataLoader: expected images to be uint8, got {images.dtype}")
        if images.ndim != 3:
            raise ValueError(f"DataLoader: expected images of shape (N, H, W), got {images.shape}")
        if labels.dtype.kind not in "iu":
            raise TypeError(f"DataLoader: expected labels to be integers, got {labels.dtype}")
        if labels.shape != images.shape[:1]:
            raise ValueError(
                f"DataLoader: expected labels of shape ({len(images)},), one for each image, got {labels.shape}"
            )
        numbers = isinstance(mean, Real) and isinstance(std, Real)
        if not (numbers and math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise ValueError(f"DataLoader: expected a finite mean and a finite std > 0, got mean {mean} and std {std}")
        check_device("DataLoader", device)
        self.images = np.ascontiguousarray(images)
        self.labels = labels.astype(np.int64)
        self.batch_size = integer("DataLoader", "batch_size", batch_size, 1)
        self.shuffle = flag("DataLoader", "shuffle", shuffle)
        self.seed = integer("DataLoader", "seed", seed, 0)
        self.drop_last = flag("DataLoader", "drop_last", drop_last)
        self.augment = augment
        canvas = getattr(augment, "canvas", None)
        if canvas is not None:
            integer("DataLoader", "augment.canvas", canvas, 1)
        self.device = device
        self.mean, self.std = float(mean), float(std)
        self.epoch = 0
        # (v / 255 - mean) / std as scale v + offset
        self._scale, self._offset = np.float32(1 / (255 * std)), np.float32(-mean / std)
        self._uploaded: Uploaded | None = None

    @functools.cached_property
    def fingerprint(self) -> str:
        """The first digits of the SHA-256 of images and labels, by which a resumed run knows its data; made once."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()[:12]

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images in the batches, the data's or those that `augment` gives them."""
        _, height, width = self.images.shape
        canvas: int | None = getattr(self.augment, "canvas", None)
        return (height, width) if canvas is None else (canvas, canvas)

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        full, rest = divmod(len(self.images), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Array]]:
        return self.batches()

    def order(self, epoch: int) -> np.ndarray:
        """The indices of the images in the order of `epoch`, int64 (N,)."""
        if not self.shuffle:
            return np.arange(len(self.images))
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.images))

    def batches(self, start: int = 0) -> Iterator[tuple[Tensor, Array]]:
        """The batches of the current epoch from number `start` on; at the end `epoch` is one more.

        Parameters
        ----------
        start : int
            From 0 to `len(loader)`; the batches are those that a whole epoch has from there on.

        Yields
        ------
        images : Tensor of float32, shape (B, 1, *image_shape)
            On the CPU in batch-last memory: B is the fastest axis.
        labels : numpy.ndarray or cupy.ndarray of int64, shape (B,)
        """
        start = integer("DataLoader", "start", start, 0)
        if start > len(self):
            raise ValueError(f"DataLoader: expected start to be at most the {len(self)} batches there are, got {start}")
        return self._batches(start, self.epoch)

    def _batches(self, start: int, epoch: int) -> Iterator[tuple[Tensor, Array]]:
        make = self._batches_on_cpu if self.device == "cpu" else self._batches_on_gpu
        for images, labels in make(self.order(epoch), start, epoch):
            yield Tensor(images), labels
        self.epoch = epoch + 1

    def _batches_on_cpu(self, order: np.ndarray, start: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        from ministn.data._batches import normalised  # here, since it loads Numba

        for number in range(start, len(self)):
            chosen = self._part(order, number)
            images = self.images[chosen]
            if self.augment is not None:
                images = self._augmented(images, epoch, number)
            yield normalised(images, self._scale, self._offset), self.labels[chosen]

    def _batches_on_gpu(self, order: np.ndarray, start: int, epoch: int) -> Iterator[tuple[Array, Array]]:
        if self.augment is not None and not isinstance(self.augment, RandomShift):
            for images, labels in self._batches_on_cpu(order, start, epoch):
                yield to_device(images, "gpu"), to_device(labels, "gpu")
            return
        shifts = np.zeros((len(order), 2), np.int32)
        if self.augment is not None:
            for number in range(start, len(self)):
                part = self._part(shifts, number)
                part[:] = self.augment.draw(len(part), self._generator(epoch, number)).T
        if self._uploaded is None:
            from ministn.data.cuda import Uploaded

            self._uploaded = Uploaded(self.images, self.labels, self._scale, self._offset)
        yield from self._uploaded.batches(order, shifts, self.batch_size, start, len(self))

    def _part(self, array: np.ndarray, number: int) -> np.ndarray:
        """What belongs to batch `number` of an array with an entry for each image, in the epoch's order."""
        return array[number * self.batch_size : (number + 1) * self.batch_size]

    def _generator(self, epoch: int, number: int) -> np.random.Generator:
        """What the augmentation of a batch is drawn from."""
        # Counted from 1: NumPy takes [seed, epoch, 0] for [seed, epoch], which the order is drawn from.
        return np.random.default_rng([self.seed, epoch, 1 + number])

    def _augmented(self, images: np.ndarray, epoch: int, number: int) -> np.ndarray:
        assert self.augment is not None
        augmented = self.augment(images, self._generator(epoch, number))
        expected = (len(images), *self.image_shape)
        if augmented.shape != expected or augmented.dtype != np.uint8:
            raise ValueError(
                f"DataLoader: expected augment to return uint8 {expected}, got {augmented.dtype} {augmented.shape}"
            )
        return augmented


@dataclass(frozen=True)
class RandomShift:
    """What `random_shift` returns."""

    max_pixels: int

    def draw(self, number: int, generator: np.random.Generator) -> np.ndarray:
        """The shifts dy and dx of so many images, shape (2, number)."""
        return generator.integers(-self.max_pixels, self.max_pixels + 1, (2, number))

    def __call__(self, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        number, height, width = images.shape
        padded = np.pad(images, ((0, 0), (self.max_pixels, self.max_pixels), (self.max_pixels, self.max_pixels)))
        shifted = np.empty_like(images)
        dy, dx = self.draw(number, generator)
        for b in range(number):
            top, left = self.max_pixels - dy[b], self.max_pixels - dx[b]
            shifted[b] = padded[b, top : top + height, left : left + width]
        return shifted


def random_shift(max_pixels: int) -> RandomShift:
    """An augmentation for `DataLoader`: each image moves by its own whole number of pixels.

    out[b, i, j] = images[b, i - dy_b, j - dx_b], 0 where that is outside; dy_b and dx_b are drawn evenly from
    -max_pixels to max_pixels.

    Parameters
    ----------
    max_pixels : int
        The largest shift along either axis, in pixels; 0 moves nothing.

    Returns
    -------
    callable
        Takes images of uint8 (B, H, W) and a generator, returns new images of the same shape.
    """
    return RandomShift(integer("random_shift", "max_pixels", max_pixels, 0))
