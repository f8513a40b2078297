"""The spatial transformer as a layer: look at the input, decide on a transformation, warp the input with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ministn import functional as F
from ministn.autodiff import Tensor
from ministn.backend import array_module
from ministn.kernels._checks import pair
from ministn.nn.linear import Linear
from ministn.nn.module import Module

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class SpatialTransformer(Module):
    r"""Warp each image by an affine transformation that a small network reads off the image itself.

    .. math::
        \theta = T(f_\mathrm{loc}(U)), \quad
        \begin{pmatrix} x^s \\ y^s \end{pmatrix} = \theta \begin{pmatrix} x^t \\ y^t \\ 1 \end{pmatrix}, \quad
        V(x^t, y^t) = U(x^s, y^s)

    theta maps positions in the output to positions in the input, both from -1 to 1; between pixels U is interpolated
    bilinearly and outside it is 0. The layer keeps nothing between calls; `theta` gives the transformations.

    Parameters
    ----------
    localisation : Module or callable
        f_loc: from the input (N, C, H, W) to parameters (N, P).
    transform : "affine" or callable
        T: from the parameters to theta (N, 2, 3). "affine" takes P = 6 parameters as theta's rows, one after another.
    output_size : int or (H_out, W_out), optional
        Of the warped images, in pixels; one integer means both; the input's by default.
    align_corners : bool
        Whether -1 and 1 are the centres of the outer pixels, or (by default) their outer edges.

    Raises
    ------
    TypeError, ValueError
        If `transform` is no such thing, or `output_size` is not one or two integers of at least 1.
    ValueError
        When called, if the parameters or theta do not have the shapes above.

    References
    ----------
    Jaderberg et al. (2015), "Spatial transformer networks", arXiv:1506.02025, section 3, eq. (1) and (5).
    """

    def __init__(
        self,
        localisation: Callable[[Tensor], Tensor],
        transform: str | Callable[[Tensor], Tensor] = "affine",
        output_size: int | tuple[int, int] | None = None,
        align_corners: bool = False,
    ) -> None:
        if not callable(transform) and transform != "affine":
            raise ValueError(f"SpatialTransformer: expected transform to be 'affine' or callable, got {transform!r}")
        self.localisation = localisation
        self.transform = transform
        self.output_size = None if output_size is None else pair("SpatialTransformer", "output_size", output_size, 1)
        self.align_corners = align_corners

    def theta(self, input: Tensor) -> Tensor:
        """The transformation of each image, shape (N, 2, 3)."""
        batch = input.shape[0]
        parameters = self.localisation(input)
        theta: Tensor
        if callable(self.transform):
            theta = self.transform(parameters)
            if theta.shape != (batch, 2, 3):
                raise ValueError(
                    f"SpatialTransformer: expected transform to return theta of shape ({batch}, 2, 3), "
                    f"got {theta.shape} from parameters of shape {parameters.shape}"
                )
            return theta
        if parameters.shape != (batch, 6):
            raise ValueError(
                "SpatialTransformer: expected localisation to return the 6 affine parameters of each image, "
                f"shape ({batch}, 6), got {parameters.shape}"
            )
        theta = parameters.reshape(batch, 2, 3)
        return theta

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H_out, W_out)."""
        return F.spatial_transform(input, self.theta(input), self.output_size, self.align_corners)

    def extra_repr(self) -> str:
        transform = self.transform if isinstance(self.transform, str) else type(self.transform).__name__
        return f"transform={transform}, output_size={self.output_size}, align_corners={self.align_corners}"


def identity_(layer: Linear) -> Linear:
    """Make the last layer of a localisation network answer with the identity, whatever it sees.

    The weight becomes 0 and the bias theta = [1 0 0; 0 1 0], so that training starts from the unwarped image; from
    random parameters most of the image would lie outside and hardly a gradient would come back.

    Parameters
    ----------
    layer : Linear
        With 6 output features; changed in place and returned.

    References
    ----------
    Jaderberg et al. (2015), arXiv:1506.02025, appendix A.4.
    """
    if not isinstance(layer, Linear):
        raise TypeError(f"identity_: expected the last Linear of a localisation network, got {type(layer).__name__}")
    if layer.out_features != len(_IDENTITY) or layer.bias is None:
        raise ValueError(f"identity_: expected a Linear with 6 output features and a bias, got {layer}")
    layer.weight.data[...] = 0
    layer.bias.data[...] = array_module(layer.bias.data).asarray(np.array(_IDENTITY, layer.bias.dtype))
    return layer
