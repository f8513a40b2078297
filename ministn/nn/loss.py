"""Losses as modules, for those who like to make them once: each calls its function in `ministn.functional`."""

from __future__ import annotations

from typing import Any

from ministn import functional as F
from ministn.autodiff import Tensor
from ministn.nn.module import Module


class _Loss(Module):
    def __init__(self, reduction: str = "mean") -> None:
        if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
            raise ValueError(f"{type(self).__name__}: expected reduction 'mean', 'sum' or 'none', got {reduction!r}")
        self.reduction = reduction

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class CrossEntropyLoss(_Loss):
    """-log softmax(logits)[label]; `reduction` is "mean" (default), "sum" or "none", over the batch.

    Parameters
    ----------
    label_smoothing : float, by keyword
        From 0 to 1; see `ministn.functional.cross_entropy`.
    """

    def __init__(self, reduction: str = "mean", *, label_smoothing: float = 0.0) -> None:
        super().__init__(reduction)
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Any) -> Tensor:
        """Logits (N, K) and integer labels (N,) to a scalar, or (N,) with ``reduction="none"``."""
        return F.cross_entropy(logits, labels, self.reduction, self.label_smoothing)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, label_smoothing={self.label_smoothing}"


class NLLLoss(_Loss):
    """-log_probabilities[label]; `reduction` is "mean" (default), "sum" or "none", over the batch."""

    def forward(self, log_probabilities: Tensor, labels: Any) -> Tensor:
        """Log-probabilities (N, K) and integer labels (N,) to a scalar, or (N,) with ``reduction="none"``."""
        return F.nll_loss(log_probabilities, labels, reduction=self.reduction)


class MSELoss(_Loss):
    """(input - target)^2; `reduction` is "mean" (default), "sum" or "none", over all elements."""

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Two tensors of one shape to a scalar, or that shape with ``reduction="none"``."""
        return F.mse_loss(input, target, reduction=self.reduction)


class SmoothL1Loss(_Loss):
    """d^2 / (2 beta) up to beta and d - beta / 2 above, of the absolute difference d.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        Over all elements.
    beta : float
        Above 0.
    """

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = beta

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Two tensors of one shape to a scalar, or that shape with ``reduction="none"``."""
        return F.smooth_l1_loss(input, target, self.reduction, self.beta)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, beta={self.beta}"


class BCEWithLogitsLoss(_Loss):
    """-t log s(z) - (1 - t) log(1 - s(z)), s the sigmoid; `reduction` is "mean" (default), "sum" or "none"."""

    def forward(self, logits: Tensor, target: Any) -> Tensor:
        """Two tensors of one shape to a scalar, or that shape with ``reduction="none"``."""
        return F.binary_cross_entropy_with_logits(logits, target, self.reduction)


class MultiMarginLoss(_Loss):
    """The multi-class hinge loss: sum over k != label of max(0, margin - scores[label] + scores[k])^p / K.

    Parameters
    ----------
    p : {1, 2}
        2 gives the squared hinge.
    margin : float
        By how much the right score must exceed the others to cost nothing.
    reduction : {"mean", "sum", "none"}
        Over the batch.
    """

    def __init__(self, p: int = 1, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        if p not in (1, 2):
            raise ValueError(f"MultiMarginLoss: expected p to be 1 or 2, got {p}")
        self.p, self.margin = p, margin

    def forward(self, scores: Tensor, labels: Any) -> Tensor:
        """Scores (N, K) and integer labels (N,) to a scalar, or (N,) with ``reduction="none"``."""
        return F.multi_margin_loss(scores, labels, p=self.p, margin=self.margin, reduction=self.reduction)

    def extra_repr(self) -> str:
        return f"p={self.p}, margin={self.margin}, {super().extra_repr()}"
