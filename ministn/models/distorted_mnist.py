"""The networks of the paper's experiment on distorted MNIST: two classifiers, each alone and behind a transformer.

>>> model = table1_model("ST-CNN", "affine")
>>> sum(parameter.numel() for parameter in model.parameters())
392678

The networks of one experiment have "the same number of parameters", says the paper, but neither that number nor any
width; later work that follows it takes 400,000. So the number is given here, and both hidden layers are as wide as it
allows, with the localisation network's parameters counted in (those of an ST classifier on more than 28 x 28 pixels see
the image at half the size in which the transformer returns it):

| units or filters (parameters) | 28 x 28: R, P, E | 42 x 42: RTS | 60 x 60: TC |
|---|---|---|---|
| FCN | 349 (399,615) | 202 (399,566) | 107 (397,943) |
| CNN | 89 (399,086) | 87 (399,862) | 79 (391,376) |
| ST-FCN affine | 331 (399,421) | 309 (399,189) | 245 (399,961) |
| ST-FCN projective | 331 (399,487) | 309 (399,255) | 244 (398,626) |
| ST-FCN tps | 330 (398,822) | 308 (398,634) | 244 (399,418) |
| ST-CNN affine | 87 (392,678) | 87 (398,678) | 84 (399,172) |
| ST-CNN projective | 87 (392,720) | 87 (398,720) | 84 (399,214) |
| ST-CNN tps | 87 (393,224) | 87 (399,224) | 84 (399,718) |

What the paper describes cannot be on RTS: 42 pixels, averaged to 21, leave 13 after the first convolution and 6 after
the pooling; the second convolution needs 7. So the transformer returns 56 x 56 pixels there, and the classifier sees
28 x 28, as on R, P and E.

References
----------
Jaderberg et al. (2015), "Spatial transformer networks", arXiv:1506.02025, section 4.1 and appendix A.4.
"""

from __future__ import annotations

from collections.abc import Callable

from ministn import functional as F
from ministn import nn
from ministn.autodiff import Tensor
from ministn.kernels._checks import integer

MODELS = ("FCN", "CNN", "ST-FCN", "ST-CNN")
_CLASSES = 10
_FEWEST = 28  # rows and columns that a classifier sees behind a transformer, as on R, P and E


def table1_model(
    model: str,
    transform: str | None = None,
    canvas: int = 28,
    parameters: int = 400_000,
    batch_norm: bool = False,
    dropout: float = 0.0,
    *,
    localisation_batch_norm: bool = False,
    output_size: int | None = None,
    downsample: int | None = None,
    width_multiple: int = 1,
    first_filters: int | None = None,
) -> DistortedMnistClassifier:
    """One of the networks of Table 1, as wide as `parameters` allows; all defaults are the paper's setting.

    Parameters
    ----------
    model : {"FCN", "CNN", "ST-FCN", "ST-CNN"}
        The classifier, dense or convolutional; "ST-" puts a spatial transformer before it.
    transform : str, optional
        What the transformer may do: ``"affine"``, ``"projective"`` or ``"tps"`` (a thin plate spline). Needed for a
        model that has a transformer, refused for one that has none.
    canvas : int
        Rows and columns of the images.
    parameters : int
        The most parameters that all layers, those of the localisation network included, may have together.
    batch_norm : bool
        Whether the classifier normalises what each layer but the last gives, before the ReLU.
    dropout : float
        Probability, before the classifier's last layer.
    localisation_batch_norm : bool, by keyword
        As `batch_norm`, in the localisation network.
    output_size : int, by keyword, optional
        Rows and columns of the images that the transformer returns. By default those of the canvas, but at least 28
        after the averaging: 56 on RTS, see above.
    downsample : int, by keyword, optional
        Side of the windows over which images are averaged before the classifier. By default 2 behind a transformer on
        a canvas of more than 28 pixels, which can enlarge the digit before; 1, that is none, otherwise.
    width_multiple : int, by keyword
        Both hidden layers of the classifier have a multiple of this many units or filters.
    first_filters : int, by keyword, optional
        Filters of the first convolution; by default as many as the second has. The images are larger there, so fewer
        filters in the first and more in the second take less time for as many parameters. Dense classifiers ignore it.

    Returns
    -------
    DistortedMnistClassifier
        A `DistortedMnistSTN` if it has a transformer.

    Raises
    ------
    ValueError
        If a name is none of those above, the canvas is too small for the layers, or `parameters` for the narrowest
        network.
    """
    if model not in MODELS:
        raise ValueError(f"table1_model: expected model to be one of {', '.join(MODELS)}, got {model!r}")
    has_transformer, dense = model.startswith("ST-"), model.endswith("FCN")
    if has_transformer and transform is None:
        raise ValueError(f"table1_model: {model} needs a transform, such as 'affine'")
    if not has_transformer and transform is not None:
        raise ValueError(f"table1_model: {model} has no transformer, but got the transform {transform!r} for one")
    if not has_transformer and output_size is not None:
        raise ValueError(f"table1_model: {model} has no transformer, but got the output_size {output_size} for one")
    sizes = {
        "canvas": canvas,
        "parameters": parameters,
        "width_multiple": width_multiple,
        "output_size": output_size,
        "downsample": downsample,
        "first_filters": first_filters,
    }
    for name, value in sizes.items():
        if value is not None:
            integer("table1_model", name, value, 1)

    if downsample is None:
        downsample = 2 if has_transformer and canvas > 28 else 1
    if output_size is None:
        output_size = max(canvas, _FEWEST * downsample) if has_transformer else canvas
    if downsample > output_size:
        raise ValueError(f"table1_model: expected downsample to be at most {output_size}, got {downsample}")
    transformer = None
    if transform is not None:
        localisation = (_dense_localisation if dense else _convolutional_localisation)(
            canvas, transform, localisation_batch_norm
        )
        transformer = nn.SpatialTransformer(localisation, transform=transform, output_size=output_size)
    left = parameters - (0 if transformer is None else sum(p.numel() for p in transformer.parameters()))
    size = output_size // downsample

    def widths(width: int) -> tuple[int, int]:
        return (width if dense or first_filters is None else first_filters), width

    count, build = (_count_dense, _dense) if dense else (_count_convolutional, _convolutional)
    width = _largest(lambda width: count(size, widths(width), batch_norm) <= left, width_multiple)
    if not width:
        least = parameters - left + count(size, widths(width_multiple), batch_norm)
        raise ValueError(
            f"table1_model: expected at least {least} parameters for width {width_multiple}, got {parameters}"
        )
    layers = build(size, widths(width), batch_norm, dropout)
    if transformer is None:
        return DistortedMnistClassifier(layers, canvas, downsample, width)
    return DistortedMnistSTN(layers, canvas, downsample, width, transformer)


class DistortedMnistClassifier(nn.Module):
    """What `table1_model` returns for "FCN" and "CNN".

    Parameters
    ----------
    classifier : Module
        Images (N, 1, H, W), or those averaged over windows, to scores (N, 10).
    canvas : int
        H = W of the images.
    downsample : int
        Side of those windows; 1 leaves the images as they are.
    width : int
        Units or filters in the second hidden layer, and without `first_filters` in the first one too; for the record.
    """

    def __init__(self, classifier: nn.Module, canvas: int, downsample: int, width: int) -> None:
        self.classifier = classifier
        self.canvas, self.downsample, self.width = canvas, downsample, width

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, canvas, canvas) to log-probabilities (N, 10)."""
        self._check(x)
        return self.classify(x)

    def classify(self, x: Tensor) -> Tensor:
        """The same of images that have gone through the transformer, if there is one."""
        if self.downsample > 1:
            x = F.avg_pool2d(x, self.downsample)
        return F.log_softmax(self.classifier(x), dim=1)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1:] != (1, self.canvas, self.canvas):
            raise ValueError(
                f"{type(self).__name__}: expected images of shape (N, 1, {self.canvas}, {self.canvas}), got {x.shape}"
            )


class DistortedMnistSTN(DistortedMnistClassifier):
    """What `table1_model` returns for "ST-FCN" and "ST-CNN". It starts with the identity: images pass unwarped.

    Parameters
    ----------
    classifier, canvas, downsample, width
        As in `DistortedMnistClassifier`.
    transformer : SpatialTransformer
        Images (N, 1, canvas, canvas) to (N, 1, output_size, output_size).
    """

    def __init__(
        self, classifier: nn.Module, canvas: int, downsample: int, width: int, transformer: nn.SpatialTransformer
    ) -> None:
        super().__init__(classifier, canvas, downsample, width)
        self.transformer = transformer

    def theta(self, x: Tensor) -> Tensor:
        """The transformation of each image, output positions to input positions, in the transform's own shape."""
        self._check(x)
        return self.transformer.theta(x)

    def stn(self, x: Tensor) -> Tensor:
        """The warped images, before they are averaged: (N, 1, canvas, canvas) to (N, 1, output_size, output_size)."""
        self._check(x)
        return self.transformer(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, canvas, canvas) to log-probabilities (N, 10)."""
        return self.classify(self.stn(x))

    def localisation_parameters(self) -> list[nn.Parameter]:
        """Those that decide on the transformation; they often want a smaller learning rate."""
        return list(self.transformer.parameters())

    def classifier_parameters(self) -> list[nn.Parameter]:
        """All the others."""
        return list(self.classifier.parameters())


# --- classifiers: three layers with weights -----------------------------------------------------------------------


def _dense(size: int, widths: tuple[int, int], batch_norm: bool, dropout: float) -> nn.Sequential:
    first, second = widths
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(size * size, first),
        *_normalisation(nn.BatchNorm1d, first, batch_norm),
        nn.ReLU(),
        nn.Linear(first, second),
        *_normalisation(nn.BatchNorm1d, second, batch_norm),
        nn.ReLU(),
        *_dropout(dropout),
        nn.Linear(second, _CLASSES),
    )


def _count_dense(size: int, widths: tuple[int, int], batch_norm: bool) -> int:
    """The parameters of `_dense`: weights and biases, gamma and beta."""
    first, second = widths
    weights = size * size * first + first * second + second * _CLASSES
    return weights + (1 + 2 * batch_norm) * (first + second) + _CLASSES


def _convolutional(size: int, widths: tuple[int, int], batch_norm: bool, dropout: float) -> nn.Sequential:
    first, second = widths
    last = _convolved_size(size)
    return nn.Sequential(
        nn.Conv2d(1, first, kernel_size=9),
        *_normalisation(nn.BatchNorm2d, first, batch_norm),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(first, second, kernel_size=7),
        *_normalisation(nn.BatchNorm2d, second, batch_norm),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        *_dropout(dropout),
        nn.Linear(last * last * second, _CLASSES),
    )


def _count_convolutional(size: int, widths: tuple[int, int], batch_norm: bool) -> int:
    """The parameters of `_convolutional`: weights and biases, gamma and beta."""
    first, second = widths
    weights = 9 * 9 * first + 7 * 7 * first * second + _convolved_size(size) ** 2 * second * _CLASSES
    return weights + (1 + 2 * batch_norm) * (first + second) + _CLASSES


def _convolved_size(size: int) -> int:
    """The side of an image after both convolutions and poolings."""
    last = ((size - 8) // 2 - 6) // 2
    if last < 1:
        raise ValueError(
            f"table1_model: expected at least 24 x 24 pixels for convolutions of 9 x 9 and 7 x 7, got {size} x {size}"
        )
    return last


# --- localisation networks ----------------------------------------------------------------------------------------


def _dense_localisation(canvas: int, transform: str, batch_norm: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(canvas * canvas, 32),
        *_normalisation(nn.BatchNorm1d, 32, batch_norm),
        nn.ReLU(),
        nn.Linear(32, 32),
        *_normalisation(nn.BatchNorm1d, 32, batch_norm),
        nn.ReLU(),
        _identity_layer(32, transform),
    )


def _convolutional_localisation(canvas: int, transform: str, batch_norm: bool) -> nn.Sequential:
    """It looks at the image at half its size."""
    last = (canvas // 2 - 4) // 2 - 4
    if last < 1:
        raise ValueError(
            f"table1_model: expected a canvas of at least 28 x 28 for the localisation network, got {canvas} x {canvas}"
        )
    return nn.Sequential(
        nn.AvgPool2d(2),
        nn.Conv2d(1, 20, kernel_size=5),
        *_normalisation(nn.BatchNorm2d, 20, batch_norm),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(20, 20, kernel_size=5),
        *_normalisation(nn.BatchNorm2d, 20, batch_norm),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20 * last * last, 20),
        *_normalisation(nn.BatchNorm1d, 20, batch_norm),
        nn.ReLU(),
        _identity_layer(20, transform),
    )


def _identity_layer(features: int, transform: str) -> nn.Linear:
    """The last layer of a localisation network: it answers with the identity, whatever it sees, until it learns."""
    layer = nn.Linear(features, nn.transforms.get(transform).num_parameters)
    return nn.identity_(layer, transform)


# --- small parts --------------------------------------------------------------------------------------------------


def _normalisation(kind: Callable[[int], nn.Module], width: int, wanted: bool) -> list[nn.Module]:
    return [kind(width)] if wanted else []


def _dropout(probability: float) -> list[nn.Module]:
    return [nn.Dropout(probability)] if probability else []


def _largest(fits: Callable[[int], bool], step: int) -> int:
    """The largest multiple of `step` that fits, where all smaller ones fit too; 0 if none does."""
    value = 0
    while fits(value + step):
        value += step
    return value
