"""The network of a run folder, and all that is needed to show it digits."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ministn import records
from ministn.autodiff import Tensor, no_grad
from ministn.models import DistortedMnistSTN, MnistCNN, MnistSTN, table1_model
from ministn.nn.transforms import Transform, get


@dataclass(frozen=True)
class TrainedNetwork:
    """A classifier behind a spatial transformer.

    Parameters
    ----------
    model : Module
        With ``theta(x)``, for images (1, 1, canvas, canvas).
    classify : callable
        From warped images to log-probabilities (1, 10).
    transform : str
        What theta means: "affine", "projective" or "tps".
    canvas, output_size : int
        Rows and columns of the images, and of the warped ones.
    mean, std : float
        The normalisation that the model was trained with, for pixels from 0 to 1.
    description : str
        One line for the reader.
    """

    model: Any
    classify: Callable[[Tensor], Tensor]
    transform: str
    canvas: int
    output_size: int
    mean: float
    std: float
    description: str

    def parameters(self, x: Tensor) -> np.ndarray:
        """What the localisation network answers for a normalised image (1, 1, canvas, canvas), shape (P,)."""
        transform: Transform = get(self.transform)
        with no_grad():
            theta = self.model.theta(x).numpy()
        # theta's rows, one after another; of a projective one without the last element, which is 1
        flat: np.ndarray = theta.reshape(-1)[: transform.num_parameters]
        return flat

    def probabilities(self, warped: Tensor) -> np.ndarray:
        """Of the ten digits, for one normalised warped image, shape (10,)."""
        with no_grad():
            probabilities: np.ndarray = np.exp(self.classify(warped).numpy()[0])
        return probabilities


def read_run(folder: Path) -> TrainedNetwork:
    """The network that ``examples/train_mnist.py`` or ``examples/reproduce_table1.py`` has left in `folder`.

    Raises
    ------
    CheckpointError
        If there is none, a file is damaged, or the network has no transformer.
    """
    for name, build in (("result.json", _of_table1), ("config.json", _of_train_mnist)):
        path = folder / name
        try:
            settings = json.loads(path.read_text())
            network = build(folder, settings)
        except FileNotFoundError:
            continue
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, records.CheckpointError):
                raise
            raise records.CheckpointError(f"{path}: no settings of a run ({type(error).__name__}: {error})") from None
        network.model.eval()
        return network
    raise records.CheckpointError(
        f"{folder}: expected the folder of a finished run, with config.json (train_mnist) or result.json "
        "(reproduce_table1), found neither"
    )


def _of_train_mnist(folder: Path, settings: dict[str, Any]) -> TrainedNetwork:
    name = settings["model"]
    if name not in ("stn", "stn-coordconv"):
        raise records.CheckpointError(f"{folder}: expected a network with a transformer (--model stn), got {name!r}")
    model = MnistSTN(coord_conv=name == "stn-coordconv")
    # one file for weights, normalisation and accuracy: another one may be of another moment of the training
    checkpoint = records.read_checkpoint(folder / "checkpoint.safetensors")
    checkpoint.load_weights(model)
    info = checkpoint.info
    step = info["step"]
    progress = f"after {step} steps"
    if info["history"]:
        accuracy = f"{100 * info['history'][-1]['test_accuracy']:.2f} % of the test digits after epoch {info['epoch']}"
        progress = f"read {accuracy}, {step} steps ago" if step else f"reads {accuracy}"
    return TrainedNetwork(
        model,
        functools.partial(MnistCNN.forward, model),
        "affine",
        canvas=28,
        output_size=28,
        mean=float(info["made_with"]["pixel mean"]),
        std=float(info["made_with"]["pixel standard deviation"]),
        description=f"{name}, trained on {settings['data_name']}, {progress}",
    )


def _of_table1(folder: Path, settings: dict[str, Any]) -> TrainedNetwork:
    name, transform, recipe = settings["model"], settings["transform"], settings["recipe"]
    model = table1_model(
        name,
        transform,
        settings["canvas"],
        recipe["parameters"],
        recipe["batch_norm"],
        recipe["dropout"],
        localisation_batch_norm=recipe["localisation_batch_norm"],
        width_multiple=recipe["width_multiple"],
        first_filters=recipe["first_filters"] or None,
    )
    if not isinstance(model, DistortedMnistSTN):
        raise records.CheckpointError(f"{folder}: expected a network with a transformer (ST-...), got {name!r}")
    records.load_weights(folder / "model.safetensors", model)
    return TrainedNetwork(
        model,
        model.classify,
        transform,
        canvas=model.canvas,
        output_size=model.transformer.output_size[0] if model.transformer.output_size else model.canvas,
        mean=recipe["pixel_mean"],
        std=recipe["pixel_std"],
        description=f"{name} {transform}, trained on distorted digits ({settings['data']}), "
        f"reads {100 - settings['test_error_percent']:.2f} % of its test digits",
    )
