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

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__(dropout)
        self.localization = nn.Sequential(
            *(nn.Conv2d(1, 8, 7), nn.MaxPool2d(2, 2), nn.ReLU()),
            *(nn.Conv2d(8, 10, 5), nn.MaxPool2d(2, 2), nn.ReLU()),
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
