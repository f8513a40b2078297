"""The spatial transformer as a layer: look at the input, decide on a transformation, warp the input with it."""

from __future__ import annotations

from collections.abc import Callable

from ministn import functional as F
from ministn.autodiff import Tensor
from ministn.backend import array_module
from ministn.kernels._checks import check_choice, pair
from ministn.nn import transforms
from ministn.nn.linear import Linear
from ministn.nn.module import Module
from ministn.nn.transforms import Transform


class SpatialTransformer(Module):
    r"""Warp each image by a transformation that a small network reads off the image itself.

    .. math::
        \theta = f_\mathrm{loc}(U), \quad (x^s, y^s) = T_\theta(x^t, y^t), \quad V(x^t, y^t) = U(x^s, y^s)

    T maps positions in the output to positions in the input, both from -1 to 1. The layer keeps nothing between calls;
    `theta` gives the transformations, and `grid` the points that are read.

    It can stand anywhere in a network, also behind convolutions; several can follow each other, or stand side by side
    in a `Parallel`. An output much smaller than the input passes pixels over, so that thin lines vanish: a larger
    `output_size` and an `AvgPool2d` behind read them all, and average.

    Parameters
    ----------
    localisation : Module or callable
        f_loc: from the input (N, C, H, W) to parameters (N, P).
    transform : str, Transform or callable
        T: one of `ministn.nn.transforms` or its name: "translation", "rotation", "attention", "similarity", "affine"
        (P = 6 parameters, theta's rows one after another), "projective" or "tps". Or any function, or module that
        learns, from the parameters to theta (N, 2, 3), which is taken as affine.
    output_size : int or (H_out, W_out), optional
        Of the warped images, in pixels; one integer means both; the input's by default.
    align_corners : bool
        Whether -1 and 1 are the centres of the outer pixels, or (by default) their outer edges.
    sampler : {"bilinear", "nearest", "bicubic"} or callable
        How to read between pixels, see `ministn.functional.grid_sample`; or a function of the input (N, C, H, W) and
        the grid (N, H_out, W_out, 2) that returns the output, and must read the grid as `align_corners` says. "nearest"
        passes no gradient to the localisation network.
    padding_mode : {"zeros", "border", "reflection"}
        What is read outside the input; a callable sampler decides for itself.

    Raises
    ------
    TypeError, ValueError
        If `transform`, `sampler` or `padding_mode` is no such thing, or `output_size` is not one or two integers of at
        least 1.
    ValueError
        When called, if the parameters or theta do not have the shapes above.

    Notes
    -----
    Affine transformations with bilinear sampling and zeros outside take one pass, without a grid in memory:
    `ministn.functional.spatial_transform`.

    References
    ----------
    Jaderberg et al. (2015), "Spatial transformer networks", arXiv:1506.02025, section 3, eq. (1) to (5).
    """

    def __init__(
        self,
        localisation: Callable[[Tensor], Tensor],
        transform: str | Transform | Callable[[Tensor], Tensor] = "affine",
        output_size: int | tuple[int, int] | None = None,
        align_corners: bool = False,
        sampler: str | Callable[[Tensor, Tensor], Tensor] = "bilinear",
        padding_mode: str = "zeros",
    ) -> None:
        if isinstance(transform, type):  # which could be called, too
            raise TypeError(f"SpatialTransformer: expected a transform, got the class {transform.__name__}")
        if not callable(sampler):
            check_choice("SpatialTransformer", "sampler", sampler, ("bilinear", "nearest", "bicubic"))
        elif padding_mode != "zeros":
            raise ValueError(
                "SpatialTransformer: expected no padding_mode beside a callable sampler, which decides on what lies "
                f"outside itself, got {padding_mode!r}"
            )
        check_choice("SpatialTransformer", "padding_mode", padding_mode, ("zeros", "border", "reflection"))
        self.localisation = localisation
        self.transform = transform if callable(transform) else transforms.get(transform)
        self.output_size = None if output_size is None else pair("SpatialTransformer", "output_size", output_size, 1)
        self.align_corners = align_corners
        self.sampler = sampler
        self.padding_mode = padding_mode

    def theta(self, input: Tensor) -> Tensor:
        """The transformation of each image: affine (N, 2, 3), projective (N, 3, 3), a spline (N, K, 2)."""
        batch = input.shape[0]
        parameters = self.localisation(input)
        theta: Tensor
        if isinstance(self.transform, Transform):
            count = self.transform.num_parameters
            if parameters.shape != (batch, count):
                raise ValueError(
                    f"SpatialTransformer: expected localisation to return the {count} parameters of {self.transform} "
                    f"for each image, shape ({batch}, {count}), got {parameters.shape}"
                )
            return self.transform.theta(parameters)
        theta = self.transform(parameters)
        if theta.shape != (batch, 2, 3):
            raise ValueError(
                f"SpatialTransformer: expected transform to return theta of shape ({batch}, 2, 3), "
                f"got {theta.shape} from parameters of shape {parameters.shape}"
            )
        return theta

    def grid(self, input: Tensor) -> Tensor:
        """Where each output pixel looks in the input: points (x, y) from -1 to 1, shape (N, H_out, W_out, 2)."""
        return self._grid(input, self.theta(input))

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H_out, W_out)."""
        theta = self.theta(input)
        if callable(self.sampler):
            return self.sampler(input, self._grid(input, theta))
        if self.map.matrix_rows == 2 and (self.sampler, self.padding_mode) == ("bilinear", "zeros"):
            return F.spatial_transform(input, theta, self.output_size, self.align_corners)
        return F.grid_sample(input, self._grid(input, theta), self.sampler, self.padding_mode, self.align_corners)

    @property
    def map(self) -> Transform:
        """What theta means, which is the transform itself, or affine maps for a callable one."""
        return self.transform if isinstance(self.transform, Transform) else transforms.Affine()

    def _grid(self, input: Tensor, theta: Tensor) -> Tensor:
        size = (*input.shape[:2], *(self.output_size or input.shape[2:]))
        return self.map.grid(theta, size, self.align_corners)

    def extra_repr(self) -> str:
        transform = self.transform if isinstance(self.transform, Transform) else type(self.transform).__name__
        sampler = type(self.sampler).__name__ if callable(self.sampler) else self.sampler
        return (
            f"transform={transform}, output_size={self.output_size}, align_corners={self.align_corners}, "
            f"sampler={sampler}, padding_mode={self.padding_mode}"
        )


def identity_(layer: Linear, transform: str | Transform = "affine") -> Linear:
    """Make the last layer of a localisation network answer with the identity, whatever it sees.

    The weight becomes 0 and the bias the identity's parameters (for an affine one, theta = [1 0 0; 0 1 0]), so that
    training starts from the unwarped image; from random parameters most of the image would lie outside and hardly a
    gradient would come back.

    Parameters
    ----------
    layer : Linear
        With as many output features as the transform has parameters; changed in place and returned.
    transform : str or Transform
        What they are the parameters of, as for `SpatialTransformer`.

    References
    ----------
    Jaderberg et al. (2015), arXiv:1506.02025, appendix A.4.
    """
    identity = transforms.get(transform).identity
    if not isinstance(layer, Linear):
        raise TypeError(f"identity_: expected the last Linear of a localisation network, got {type(layer).__name__}")
    if layer.out_features != len(identity) or layer.bias is None:
        raise ValueError(f"identity_: expected a Linear with {len(identity)} output features and a bias, got {layer}")
    layer.weight.data[...] = 0
    layer.bias.data[...] = array_module(layer.bias.data).asarray(identity.astype(layer.bias.dtype))
    return layer
