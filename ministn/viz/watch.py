"""What a transformer does to the same digits at many moments of its training, for the pictures of `watched`."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ministn.autodiff import no_grad
from ministn.records import write_atomically
from ministn.viz.pictures import _to_input, _transformer, sampling_grid

CELLS = 7  # squares of the sampling grid on a side
POINTS = 16  # on each of its lines, if it is curved, or a few less
BATCH = 500
MEAN_MOMENTS = (0.01, 0.03, 0.1, 1.0)  # parts of the training


class Watch:
    """Looks over a transformer's shoulder while it learns.

    A training loop calls `record` after every step. At few of them, which lie the denser the earlier it is, the warped
    images and the sampling grids of the same digits are kept, and at fewer still the mean image of each class of a
    larger crowd. `save` and `resume` carry all that over an interruption; `read` gets it back for the pictures.

    >>> watch = Watch(images, labels, total_steps=epochs * len(train_loader))  # doctest: +SKIP
    >>> watch.record(trainer)  # before the training  # doctest: +SKIP
    >>> trainer.fit(epochs, on_step=watch.record)  # doctest: +SKIP
    >>> warp_animation(watch, "warp.gif")  # doctest: +SKIP

    Parameters
    ----------
    images : uint8 array, shape (D, V, H, W)
        V distortions of each of D digits.
    labels : integer array, shape (D,)
    total_steps : int
        Of the whole training.
    mean, std : float, by keyword
        The normalisation that the model is trained with, for pixels from 0 to 1.
    crowd, crowd_labels : uint8 array (N, H, W), integer array (N,), by keyword, optional
        Images for the mean of each class, a few hundred.
    undistorted : uint8 array (N, H, W), by keyword, optional
        The crowd's digits as they were before anything distorted them, for comparison; their size may differ.
    moments : int, by keyword
        How many times, after the beginning, to record the digits.
    mean_moments : sequence of float, by keyword
        Parts of the training after which to record the means of the crowd.

    Attributes
    ----------
    moments : dict of lists
        For each moment ``step``, ``epoch`` (with its fraction), ``warped`` (uint8, (D, V, H', W')) and ``lines``
        (float32, (D, V, 2 (CELLS + 1), P, 2)), the lines of the `sampling_grid` over the input.
    means : dict of lists
        For each moment ``step``, ``epoch``, ``images`` (float32 from 0 to 1, (C, H', W')) and ``sharpness`` (C,), see
        `class_means`, measured by the energies of the undistorted digits, or else of the crowd as it comes.
    distorted, undistorted : tuple of arrays or None
        `class_means` of the crowd as it comes, before any transformer, and of the undistorted digits.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        total_steps: int,
        *,
        mean: float = 0.0,
        std: float = 1.0,
        crowd: np.ndarray | None = None,
        crowd_labels: np.ndarray | None = None,
        undistorted: np.ndarray | None = None,
        moments: int = 48,
        mean_moments: Sequence[float] = MEAN_MOMENTS,
    ) -> None:
        self.images, self.labels, self.total_steps = np.asarray(images), np.asarray(labels), total_steps
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or len(self.labels) != len(self.images):
            raise ValueError(
                "Watch: expected images of uint8 (D, V, H, W) and labels (D,), got "
                f"{self.images.dtype} {self.images.shape} and {self.labels.shape}"
            )
        for name, more in (("crowd", crowd), ("undistorted", undistorted)):
            if more is not None and more.dtype != np.uint8:
                raise ValueError(f"Watch: expected {name} to be uint8, got {more.dtype}")
        for name, number in (("total_steps", total_steps), ("moments", moments)):
            if number < 1:
                raise ValueError(f"Watch: expected {name} to be at least 1, got {number}")
        self.mean, self.std, self.crowd, self.crowd_labels = mean, std, crowd, crowd_labels
        self._due = {round(total_steps * (k / moments) ** 3) for k in range(moments + 1)}  # dense at the beginning
        self._means_due = {round(total_steps * part) for part in mean_moments}
        self.moments: dict[str, list[Any]] = {"step": [], "epoch": [], "warped": [], "lines": []}
        self.means: dict[str, list[Any]] = {"step": [], "epoch": [], "images": [], "sharpness": []}
        self.distorted = self.undistorted = None
        self._saved = False
        if crowd is not None:
            self._energies = edge_energy((crowd if undistorted is None else undistorted) / np.float32(255))
            self.distorted = class_means(crowd / np.float32(255), crowd_labels, self._energies)
        if undistorted is not None:
            self.undistorted = class_means(undistorted / np.float32(255), crowd_labels)

    # --- while it learns ------------------------------------------------------------------------------------------

    def record(self, trainer: Any) -> None:
        """Keep what the trainer's model does now, if it is the moment for it; with the averaged weights, if there are.

        What was recorded for this step or later ones, before the training went back to a checkpoint, is replaced.

        Parameters
        ----------
        trainer : Trainer
            Of a model with ``theta(x)``, ``stn(x)`` and ``transformer``, such as `ministn.models.table1_model`.
        """
        step = trainer.epoch * len(trainer.train_loader) + trainer.step
        if step not in self._due | self._means_due:
            return
        self._saved = False
        trainer.read_metrics()  # the steps that the GPU still makes are the training's time, not this function's
        model, at = trainer.model, {"step": step, "epoch": step / len(trainer.train_loader)}
        model.eval()
        with no_grad(), trainer.average.applied() if trainer.average is not None else contextlib.nullcontext():
            if step in self._due:
                shape = self.images.shape[:2]
                digits = self.images.reshape(-1, *self.images.shape[2:])
                warped = np.rint(255 * self._warp(model, digits)).astype(np.uint8)
                lines = self._lines(model, digits)
                _append(
                    self.moments,
                    **at,
                    warped=warped.reshape(*shape, *warped.shape[1:]),
                    lines=lines.reshape(*shape, *lines.shape[1:]),
                )
            if step in self._means_due and self.crowd is not None:
                images, sharpness = class_means(self._warp(model, self.crowd), self.crowd_labels, self._energies)
                _append(self.means, **at, images=images, sharpness=sharpness)

    def _warp(self, model: Any, images: np.ndarray) -> np.ndarray:
        """What the transformer returns: (N, H', W'), pixels from 0 to 1."""
        batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        warped = [model.stn(_to_input(model, batch, self.mean, self.std)).numpy()[:, 0] for batch in batches]
        clipped: np.ndarray = np.clip(np.concatenate(warped) * self.std + self.mean, 0, 1)
        return clipped

    def _lines(self, model: Any, images: np.ndarray) -> np.ndarray:
        """The lines of the sampling grids, (N, 2 (CELLS + 1), P, 2), in pixels of the input."""
        theta = model.theta(_to_input(model, images, self.mean, self.std)).numpy()
        layer, size = _transformer(model), images.shape[1:]
        transform, align_corners = ("affine", False) if layer is None else (layer.map, layer.align_corners)
        lines = np.array([sampling_grid(t, size, CELLS, transform, align_corners) for t in theta], np.float32)
        return lines[:, :, :: lines.shape[2] // POINTS + 1]

    # --- on disk --------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, compress: bool = True) -> None:
        """Write all moments to an npz file, atomically, unless nothing has come since the last time.

        Save the watch before the checkpoint: all moments up to the checkpoint's step are in the file then. With
        ``compress=False`` that takes milliseconds, and the file is twice as large.
        """
        if self._saved:
            return
        arrays: dict[str, Any] = {
            name: getattr(self, name) for name in ("images", "labels", "total_steps", "mean", "std")
        }
        for name, table in (("moments", self.moments), ("means", self.means)):
            arrays |= {f"{name}.{key}": np.array(values) for key, values in table.items()}
        for name in ("distorted", "undistorted"):
            if (pair := getattr(self, name)) is not None:
                arrays[f"{name}.images"], arrays[f"{name}.sharpness"] = pair
        content = io.BytesIO()
        (np.savez_compressed if compress else np.savez)(content, **arrays)
        write_atomically(path, content.getvalue())
        self._saved = True

    def resume(self, path: str | Path) -> None:
        """Take over the moments that another watch, of the same digits, has saved; its training may have been shorter.

        Raises
        ------
        ValueError
            If it watched other digits, or the file is no watch.
        """
        other = Watch.read(path)
        if not np.array_equal(other.images, self.images):
            raise ValueError(f"{path}: watched other digits")
        self.moments = other.moments
        if self.crowd is not None:
            self.means = other.means

    @classmethod
    def read(cls, path: str | Path) -> Watch:
        """What a watch has saved, to make pictures of.

        Raises
        ------
        ValueError
            If the file is no watch.
        """
        content = io.BytesIO(Path(path).read_bytes())
        try:
            with np.load(content) as file:
                total_steps, mean, std = int(file["total_steps"]), float(file["mean"]), float(file["std"])
                watch = cls(file["images"], file["labels"], total_steps, mean=mean, std=std)
                for name, table in (("moments", watch.moments), ("means", watch.means)):
                    for key in table:
                        column = file[f"{name}.{key}"]
                        table[key] = list(column) if column.ndim > 1 else column.tolist()
                for name in ("distorted", "undistorted"):
                    if f"{name}.images" in file:
                        setattr(watch, name, (file[f"{name}.images"], file[f"{name}.sharpness"]))
        except Exception as error:  # zipfile and NumPy have a dozen kinds for what is damaged
            raise ValueError(f"{path}: not the file of a Watch ({error})") from error
        return watch


def class_means(
    images: np.ndarray, labels: Sequence[int] | np.ndarray | None, energies: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    r"""The mean image of each class, and how sharp it is.

    .. math::
        \text{sharpness} = \frac{\overline{\nabla x_i \cdot \nabla x_j}}{\overline{|\nabla x|^2}}

    over all pairs of different images of a class, where the gradient is that of the pixels in rows and in columns: how
    alike the edges of two images are. It is 1 if all images are the same, and 0 if no two have an edge in common. Edges
    count and not ink, since blots overlap whatever they show; and as the `edge_energy` does not change with
    magnification, a transformer gains nothing by showing digits larger or smaller.

    Parameters
    ----------
    images : float array, shape (N, H, W)
    labels : integer array, shape (N,)
    energies : float array, shape (N,), optional
        In place of the images' own `edge_energy`, below the fraction: that of the same digits before a transformer, so
        that it gains nothing by blurring them either.

    Returns
    -------
    means : float32 array, shape (C, H, W)
        One for each class that occurs, in order.
    sharpness : float32 array, shape (C,)
        0 for a class of one image, or of black ones.
    """
    images, labels = np.asarray(images, np.float32), np.asarray(labels)
    if images.ndim != 3 or labels.shape != images.shape[:1] or len(images) == 0:
        raise ValueError(
            f"class_means: expected images (N, H, W) and labels (N,), N > 0, got {images.shape} and {labels.shape}"
        )
    own = edge_energy(images)
    energies = own if energies is None else energies
    means, sharpness = [], []
    for label in np.unique(labels):
        of_class = labels == label
        count, mean = of_class.sum(), images[of_class].mean(axis=0)
        # The energy of the mean has all pairs in it; without those of an image with itself:
        pairs = (count * edge_energy(mean) - own[of_class].mean()) / max(count - 1, 1)
        means.append(mean)
        sharpness.append(pairs / max(energies[of_class].mean(), np.finfo(np.float32).tiny))
    return np.array(means), np.array(sharpness, np.float32)


def edge_energy(images: np.ndarray) -> np.ndarray:
    """The sum of the squared differences of neighbouring pixels, in rows and in columns: (..., H, W) to (...)."""
    along, down = np.diff(images, axis=-1), np.diff(images, axis=-2)
    energy: np.ndarray = np.square(along).sum(axis=(-2, -1)) + np.square(down).sum(axis=(-2, -1))
    return energy


def _append(table: dict[str, list[Any]], *, step: int, **values: Any) -> None:
    """A row to the table, in place of those of its step and later ones."""
    while table["step"] and table["step"][-1] >= step:
        for column in table.values():
            column.pop()
    for key, value in {"step": step, **values}.items():
        table[key].append(value)
