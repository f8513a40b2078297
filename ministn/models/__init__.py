"""Networks to train."""

from ministn.models.mnist import MnistCNN, MnistSTN

__all__ = ["MnistCNN", "MnistSTN"]
