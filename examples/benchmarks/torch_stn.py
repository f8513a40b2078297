"""The networks of `ministn.models` in PyTorch, to compare with: `TorchSTN` is that of PyTorch's tutorial on STNs.

Attribute names are the tutorial's, so that its checkpoints, ours and these have the same keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class TorchCNN(nn.Module):
    """`ministn.models.MnistCNN`."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.conv2_drop = nn.Dropout2d(dropout)
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, 10)
        self.dropout = dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(x)), 2))
        x = F.relu(self.fc1(x.flatten(1)))
        return F.log_softmax(self.fc2(F.dropout(x, self.dropout, self.training)), dim=1)


class TorchSTN(TorchCNN):
    """`ministn.models.MnistSTN`."""

    convolution: type[nn.Conv2d] = nn.Conv2d  # of the localisation network

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__(dropout)
        self.localization = nn.Sequential(
            *(self.convolution(1, 8, 7), nn.MaxPool2d(2, 2), nn.ReLU()),
            *(self.convolution(8, 10, 5), nn.MaxPool2d(2, 2), nn.ReLU()),
        )
        self.fc_loc = nn.Sequential(nn.Linear(90, 32), nn.ReLU(), nn.Linear(32, 6))
        nn.init.zeros_(self.fc_loc[2].weight)
        with torch.no_grad():
            self.fc_loc[2].bias.copy_(torch.eye(2, 3).flatten())

    def theta(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc_loc(self.localization(x).flatten(1)).view(-1, 2, 3)

    def stn(self, x: torch.Tensor) -> torch.Tensor:
        grid = F.affine_grid(self.theta(x), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.stn(x))


class TorchCoordConv2d(nn.Conv2d):
    """`ministn.nn.CoordConv2d`: two more input channels, x and y of each pixel from -1 to 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels + 2, out_channels, kernel_size)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = input.shape
        x = torch.linspace(-1, 1, width, dtype=input.dtype, device=input.device)
        y = torch.linspace(-1, 1, height, dtype=input.dtype, device=input.device)[:, None]
        channels = [values.expand(batch, 1, height, width) for values in (x, y)]
        return super().forward(torch.cat([input, *channels], dim=1))


class TorchCoordSTN(TorchSTN):
    """`ministn.models.MnistSTN(coord_conv=True)`."""

    convolution = TorchCoordConv2d
