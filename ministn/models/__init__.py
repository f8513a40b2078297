"""Networks to train."""

from ministn.models.distorted_mnist import DistortedMnistClassifier, DistortedMnistSTN, table1_model
from ministn.models.mnist import MnistCNN, MnistSTN

__all__ = ["DistortedMnistClassifier", "DistortedMnistSTN", "MnistCNN", "MnistSTN", "table1_model"]
