"""Losses: one number that says how wrong the output is, averaged over the batch by default."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, array_module, device_of, implementation, is_array, to_device
from ministn.kernels._checks import check_is_tensor
from ministn.ops.activation import log_softmax
from ministn.ops.reduction import mean
from ministn.ops.reduction import sum as sum_

_SOFTMAX = "ministn.ops.softmax"


class NLLLoss(Function):
    """-log p[label], from a table of log-probabilities (N, K): of each row, or summed or averaged over them."""

    def __init__(self, labels: Array, reduction: str) -> None:
        self.labels, self.reduction = labels, reduction

    def forward(self, log_probabilities: Array) -> Array:
        self.shape = log_probabilities.shape
        losses = implementation(_SOFTMAX, log_probabilities).picked(log_probabilities, self.labels)
        if self.reduction == "none":
            return -losses
        total = array_module(losses).asarray(losses.sum())
        return -total / total.dtype.type(len(losses)) if self.reduction == "mean" else -total

    def backward(self, grad_output: Array) -> Array:
        count = grad_output.dtype.type(len(self.labels) if self.reduction == "mean" else 1)
        return implementation(_SOFTMAX, grad_output).placed(-grad_output / count, self.labels, self.shape)


class CrossEntropy(Function):
    """-log softmax(z)[label], so dz = softmax(z) - onehot(label): one pass, without the table of log-probabilities."""

    def __init__(self, labels: Array) -> None:
        self.labels = labels

    def forward(self, logits: Array) -> Array:
        xp = array_module(logits)
        shifted = logits - logits.max(axis=1, keepdims=True)
        exponentials = xp.exp(shifted)
        total = exponentials.sum(axis=1, keepdims=True)
        self.probabilities = exponentials / total
        return xp.log(total[:, 0]) - implementation(_SOFTMAX, logits).picked(shifted, self.labels)

    def backward(self, grad_output: Array) -> Array:
        grad = self.probabilities * grad_output[:, None]
        grad -= implementation(_SOFTMAX, grad).placed(grad_output, self.labels, grad.shape)
        return grad


class MultiMarginLoss(Function):
    """sum over k != label of max(0, margin - z[label] + z[k])^p / K."""

    def __init__(self, labels: Array, p: int, margin: float) -> None:
        self.labels, self.p, self.margin = labels, p, margin

    def forward(self, scores: Array) -> Array:
        xp = array_module(scores)
        self.rows = xp.arange(len(self.labels))
        excess = self.margin + scores - scores[self.rows, self.labels][:, None]
        self.excess = xp.maximum(excess, scores.dtype.type(0))
        self.excess[self.rows, self.labels] = 0
        return (self.excess**self.p).sum(axis=1) / scores.shape[1]

    def backward(self, grad_output: Array) -> Array:
        slope = (self.excess > 0).astype(grad_output.dtype) if self.p == 1 else 2 * self.excess
        grad = slope * (grad_output / slope.shape[1])[:, None]
        grad[self.rows, self.labels] = -grad.sum(axis=1)
        return grad


class BinaryCrossEntropyWithLogits(Function):
    """-t log s(z) - (1 - t) log(1 - s(z)) for the sigmoid s: max(z, 0) - t z + log(1 + e^-|z|), which cannot overflow.

    Its slopes are s(z) - t = (1 - t) s(z) - t s(-z) in z, which keeps its digits near 0, and -z in t.
    """

    def forward(self, logits: Array, target: Array) -> Array:
        xp = array_module(logits)
        self.logits, self.target = logits, target
        return xp.maximum(logits, logits.dtype.type(0)) - target * logits + xp.log1p(xp.exp(-abs(logits)))

    def backward(self, grad_output: Array) -> tuple[Array | None, Array | None]:
        xp, one = array_module(grad_output), grad_output.dtype.type(1)
        e, positive = xp.exp(-abs(self.logits)), self.logits >= 0
        # s(z) and s(-z), times 1 + e
        yes, no = xp.where(positive, one, e), xp.where(positive, e, one)
        slope = ((1 - self.target) * yes - self.target * no) / (1 + e)
        return grad_output * slope, -grad_output * self.logits if self.needs_grad[1] else None


class SmoothL1(Function):
    """d^2 / (2 beta) where |d| <= beta and |d| - beta / 2 elsewhere, with the slope c / beta.

    Both parts are c (d - c / 2) / beta, where c is d, limited to -beta to beta.
    """

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def forward(self, difference: Array) -> Array:
        limited = difference.clip(-self.beta, self.beta)
        self.slope = limited / self.beta
        return self.slope * (difference - limited / 2)

    def backward(self, grad_output: Array) -> Array:
        return grad_output * self.slope


def cross_entropy(logits: Tensor, labels: Any, reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """Softmax and negative log-likelihood in one: -log softmax(logits)[label].

    Parameters
    ----------
    logits : Tensor, shape (N, K)
        Unnormalised scores of the K classes.
    labels : integer Tensor or array, shape (N,)
        The right classes, 0 to K - 1. Those in a NumPy array or a list are sent to where the logits are.
    reduction : {"mean", "sum", "none"}
        Over the batch.
    label_smoothing : float
        From 0 to 1, epsilon: each class counts as right with epsilon / K, and the right one with 1 - epsilon more, so
        that the loss is (1 - epsilon) (-log p[label]) + epsilon (mean over k of -log p[k]).

    Returns
    -------
    Tensor
        A scalar, or shape (N,) with ``reduction="none"``.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, labels that are not integers, labels on the GPU of logits on the CPU, or a label
        outside 0 to K - 1 (of labels on the GPU this is not checked, since it would wait for the GPU).

    References
    ----------
    Szegedy et al. (2016), "Rethinking the inception architecture for computer vision", arXiv:1512.00567, section 7
    (label smoothing).
    """
    _check_label_smoothing("cross_entropy", label_smoothing)
    labels = _labels("cross_entropy", logits, labels)
    if label_smoothing:
        return nll_loss(log_softmax(logits, dim=1), labels, reduction, label_smoothing)
    return _reduce("cross_entropy", CrossEntropy.apply(logits, labels=labels), reduction)


def nll_loss(log_probabilities: Tensor, labels: Any, reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood: -log_probabilities[label]; parameters as in `cross_entropy`."""
    _check_reduction("nll_loss", reduction)
    _check_label_smoothing("nll_loss", label_smoothing)
    labels = _labels("nll_loss", log_probabilities, labels)
    loss: Tensor = NLLLoss.apply(log_probabilities, labels=labels, reduction=reduction)
    if label_smoothing:
        uniform = _reduce("nll_loss", -mean(log_probabilities, dim=1), reduction)
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    return loss


def mse_loss(input: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """The squared difference (input - target)^2, averaged over all elements; both of one shape."""
    difference = input - _target("mse_loss", input, target)
    return _reduce("mse_loss", difference * difference, reduction)


def binary_cross_entropy_with_logits(input: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """The cross-entropy of yes-or-no questions, each with its own logit z: -t log s(z) - (1 - t) log(1 - s(z)).

    Parameters
    ----------
    input : Tensor, any shape
        The logits z; s(z) = 1 / (1 + e^-z) is the probability of yes.
    target : Tensor or array, of the input's shape
        t, from 0 (no) to 1 (yes), such as the pixels of an image.
    reduction : {"mean", "sum", "none"}
        Over all elements.
    """
    target = _target("binary_cross_entropy_with_logits", input, target)
    losses = BinaryCrossEntropyWithLogits.apply(input, target)
    return _reduce("binary_cross_entropy_with_logits", losses, reduction)


def smooth_l1_loss(input: Tensor, target: Any, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """The absolute difference d of input and target, rounded off at 0: d^2 / (2 beta) up to beta, d - beta / 2 above.

    Small errors count as in `mse_loss`, but the gradient of a large one is no larger than 1: an outlier does not
    outweigh the rest.

    Parameters
    ----------
    input : Tensor, any shape
    target : Tensor or array, of the input's shape
    reduction : {"mean", "sum", "none"}
        Over all elements.
    beta : float
        Above 0, in the dtype of the input too: float32 takes 1e-50 for 0.

    References
    ----------
    Girshick (2015), "Fast R-CNN", arXiv:1504.08083, equation (3), where beta is 1.
    """
    if not isinstance(beta, numbers.Real) or not 0 < beta < math.inf:
        raise ValueError(f"smooth_l1_loss: expected a finite beta above 0, got {beta}")
    difference = input - _target("smooth_l1_loss", input, target)
    if difference.dtype.kind == "f" and not difference.dtype.type(beta) > 0:
        raise ValueError(f"smooth_l1_loss: expected a finite beta above 0 in {difference.dtype}, got {beta}")
    return _reduce("smooth_l1_loss", SmoothL1.apply(difference, beta=float(beta)), reduction)


def multi_margin_loss(scores: Tensor, labels: Any, p: int = 1, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """The multi-class hinge loss: sum over k != label of max(0, margin - scores[label] + scores[k])^p / K.

    Parameters
    ----------
    scores : Tensor, shape (N, K)
    labels : integer Tensor or array, shape (N,)
    p : {1, 2}
        2 gives the squared hinge.
    margin : float
        By how much the right score must exceed the others to cost nothing.
    reduction : {"mean", "sum", "none"}
    """
    if not isinstance(p, numbers.Real) or p not in (1, 2):
        raise ValueError(f"multi_margin_loss: expected p to be 1 or 2, got {p}")
    if not isinstance(margin, numbers.Real) or not math.isfinite(margin):
        raise ValueError(f"multi_margin_loss: expected margin to be a finite number, got {margin!r}")
    labels = _labels("multi_margin_loss", scores, labels)
    return _reduce(
        "multi_margin_loss", MultiMarginLoss.apply(scores, labels=labels, p=p, margin=float(margin)), reduction
    )


def _check_label_smoothing(name: str, value: float) -> None:
    if not isinstance(value, numbers.Real) or not 0 <= value <= 1:
        raise ValueError(f"{name}: expected label_smoothing to be from 0 to 1, got {value}")


def _reduce(name: str, losses: Tensor, reduction: str) -> Tensor:
    _check_reduction(name, reduction)
    return mean(losses) if reduction == "mean" else sum_(losses) if reduction == "sum" else losses


def _check_reduction(name: str, reduction: str) -> None:
    if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: expected reduction 'mean', 'sum' or 'none', got {reduction!r}")


def _target(name: str, input: Tensor, target: Any) -> Tensor:
    check_is_tensor(name, "input", input)
    target = target if isinstance(target, Tensor) else Tensor(target)
    if input.shape != target.shape:
        raise ValueError(f"{name}: expected target of the input's shape {input.shape}, got {target.shape}")
    return target


def _labels(name: str, scores: Tensor, labels: Any) -> Array:
    check_is_tensor(name, "scores", scores)
    labels = labels.data if isinstance(labels, Tensor) else labels if is_array(labels) else np.asarray(labels)
    if scores.dtype.kind != "f":
        raise TypeError(f"{name}: expected floating-point scores, got {scores.dtype}")
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"{name}: expected scores (N, K) and labels (N,), got {scores.shape} and {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integer labels, got {labels.dtype}")
    classes = scores.shape[1]
    if not classes:
        raise ValueError(f"{name}: expected scores (N, K) of at least one class, got shape {scores.shape}")
    if not isinstance(labels, np.ndarray):
        if isinstance(scores.data, np.ndarray):
            raise TypeError(f"{name}: expected labels on the cpu, where the scores are, got labels on the gpu")
        return labels  # to check them would be to wait for the GPU; there the nll_loss of a wrong label is NaN
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"{name}: expected labels 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
    return to_device(labels, device_of(scores.data))
