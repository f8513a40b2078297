"""The differentiable function `linear`."""

from __future__ import annotations

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, implementation
from ministn.kernels._checks import check_is_tensor


class Linear(Function):
    """Y = X W^T + b: linear in X, W and b, so each gradient is the adjoint of a linear map."""

    new_gradients = True

    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        self.x, self.weight = x, weight
        return implementation(__package__, x).forward(x, weight, bias)

    def backward(self, grad_output: Array) -> tuple[Array | None, ...]:
        kernels = implementation(__package__, grad_output)
        return kernels.backward(grad_output, self.x, self.weight, self.needs_grad)[: len(self.needs_grad)]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""A dense layer, ``input @ weight.T + bias``.

    .. math:: y_{no} = b_o + \sum_i w_{oi}\, x_{ni}

    Parameters
    ----------
    input : Tensor, shape (N, in_features)
    weight : Tensor, shape (out_features, in_features)
    bias : Tensor, shape (out_features,), optional

    Returns
    -------
    Tensor, shape (N, out_features)
        In the memory order of `input`.

    Raises
    ------
    ValueError
        If shapes do not fit together.
    TypeError
        If dtypes differ.

    Notes
    -----
    Cost: N in_features out_features multiplications, for the output and for each of the gradients of `input` and
    `weight`. Results do not depend on the number of threads.
    """
    check_is_tensor("linear", "input", input)
    check_is_tensor("linear", "weight", weight)
    if input.ndim != 2 or weight.ndim != 2 or input.shape[1] != weight.shape[1]:
        raise ValueError(
            "linear: expected input (N, in_features) and weight (out_features, in_features) "
            f"with equal in_features, got {input.shape} and {weight.shape}"
        )
    if bias is None:
        return Linear.apply(input, weight)
    check_is_tensor("linear", "bias", bias)
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: expected a bias of shape {weight.shape[:1]} (out_features), got {bias.shape}")
    return Linear.apply(input, weight, bias)
