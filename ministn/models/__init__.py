"""Networks to train."""

from ministn.models.detection import BoxRegressor, RegionProposalNetwork
from ministn.models.distorted_mnist import DistortedMnistClassifier, DistortedMnistSTN, table1_model
from ministn.models.mnist import MnistCNN, MnistSTN
from ministn.models.not_so_clevr import not_so_clevr_model

__all__ = [
    "BoxRegressor",
    "DistortedMnistClassifier",
    "DistortedMnistSTN",
    "MnistCNN",
    "MnistSTN",
    "RegionProposalNetwork",
    "not_so_clevr_model",
    "table1_model",
]
