"""The networks for MNIST: a small convolutional classifier, and the same behind a spatial transformer."""

from __future__ import annotations

from ministn import functional as F
from ministn import nn
from ministn.autodiff import Tensor


class MnistCNN(nn.Module):
    """Two convolutions and two dense layers: 28 x 28 pixels to the log-probabilities of ten digits.

    Parameters
    ----------
    dropout : float
        Probability, after the second convolution (whole channels) and after the first dense layer.
    """

    def __init__(self, dropout: float = 0.5) -> None:
        self.conv1 = nn.Conv2d(1, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.conv2_drop = nn.Dropout2d(dropout)
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, 10)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, 28, 28) to log-probabilities (N, 10)."""
        _check_images(type(self).__name__, x)
        x = F.max_pool2d(self.conv1(x), 2, relu=True)  # (N, 10, 12, 12)
        x = F.max_pool2d(self.conv2_drop(self.conv2(x)), 2, relu=True)  # (N, 20, 4, 4)
        x = F.relu(self.fc1(F.flatten(x, 1)))
        x = F.dropout(x, self.dropout, self.training)
        return F.log_softmax(self.fc2(x), dim=1)


class MnistSTN(MnistCNN):
    """`MnistCNN` behind a spatial transformer: the network of PyTorch's tutorial on them, parameter for parameter.

    The localisation network starts by answering with the identity, so the first images pass unwarped.

    Parameters
    ----------
    coord_conv : bool
        Whether the localisation network sees coordinates (`ministn.nn.CoordConv2d`), which the tutorial's does not.
    dropout : float
        As in `MnistCNN`.

    Attributes
    ----------
    localization, fc_loc : Sequential
        The localisation network, in the tutorial's spelling: images to 90 features, and those to 6 parameters.

    References
    ----------
    Jaderberg et al. (2015), "Spatial transformer networks", arXiv:1506.02025, sections 3.1 and 3.4.
    """

    def __init__(self, coord_conv: bool = False, dropout: float = 0.5) -> None:
        super().__init__(dropout)
        convolution = nn.CoordConv2d if coord_conv else nn.Conv2d
        self.localization = nn.Sequential(
            convolution(1, 8, kernel_size=7),
            nn.MaxPool2d(2, stride=2),
            nn.ReLU(),
            convolution(8, 10, kernel_size=5),
            nn.MaxPool2d(2, stride=2),
            nn.ReLU(),
        )
        self.fc_loc = nn.Sequential(nn.Linear(10 * 3 * 3, 32), nn.ReLU(), nn.identity_(nn.Linear(32, 6)))

    def theta(self, x: Tensor) -> Tensor:
        """The affine transformation of each image, output positions to input positions: (N, 1, 28, 28) to (N, 2, 3)."""
        _check_images(type(self).__name__, x)
        theta: Tensor = self.fc_loc(F.flatten(self.localization(x), 1)).reshape(-1, 2, 3)
        return theta

    def stn(self, x: Tensor) -> Tensor:
        """The images as the classifier will see them: (N, 1, 28, 28) to the same shape."""
        return F.spatial_transform(x, self.theta(x))

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, 28, 28) to log-probabilities (N, 10)."""
        return super().forward(self.stn(x))

    def localisation_parameters(self) -> list[nn.Parameter]:
        """Those that decide on the transformation; they often want a smaller learning rate."""
        return [*self.localization.parameters(), *self.fc_loc.parameters()]

    def classifier_parameters(self) -> list[nn.Parameter]:
        """All the others: those that `MnistCNN` has too."""
        localisation = {id(parameter) for parameter in self.localisation_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in localisation]


def _check_images(name: str, x: Tensor) -> None:
    if x.ndim != 4 or x.shape[1:] != (1, 28, 28):
        raise ValueError(f"{name}: expected images of shape (N, 1, 28, 28), got {x.shape}")
