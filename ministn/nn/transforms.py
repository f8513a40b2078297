r"""Transformations of the plane for a spatial transformer: from the numbers of a localisation network to a grid.

A transform says, for each pixel of the *target* (the output), which point of the *source* (the input) it reads. It
does so in two steps:

=================  =================================================================================================
parameters (N, P)  what a localisation network puts out: P numbers for each image; with `identity` nothing moves
theta              what they mean, mostly matrices (N, 2, 3) or (N, 3, 3): ``transform.theta(parameters)``
grid (N, H, W, 2)  source points: ``transform.grid(theta, size)``; of any points ``map_points(theta, points)``
=================  =================================================================================================

=====================  ========================  ==========================================================
transform              P: the parameters         theta
=====================  ========================  ==========================================================
`Translation`          2: t_x, t_y               [1 0 t_x; 0 1 t_y]
`Rotation`             1: phi                    [cos phi, -sin phi, 0; sin phi, cos phi, 0]
`Attention`            3: s, t_x, t_y            [s 0 t_x; 0 s t_y], equation (2) of the paper
`Similarity`           4: a, b, t_x, t_y         [a -b t_x; b a t_y]
`Affine`               6: the rows of theta      any 2 x 3 matrix, equation (1)
`Projective`           8: the rows of theta      any 3 x 3 matrix whose last element is 1
`ThinPlateSpline`      2 K: K points (x, y)      where K control points of the target lie in the source
`Bounded`              those of a transform      as `Affine`, ..., with parameters that cannot run away
`Compose`              those of all its parts    one transform after another
=====================  ========================  ==========================================================

Points are (x, y) from -1 to 1 across the picture, y down. As they go from target to source, the picture does the
opposite of what one reads off theta: s = 1/2 shows the middle half of the input *enlarged*, t_x > 0 moves it *left*,
and a positive phi turns it *anti-clockwise*.

References
----------
Jaderberg et al. (2015), "Spatial transformer networks", arXiv:1506.02025, section 3.2.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ministn import functional as F
from ministn.autodiff import Tensor
from ministn.backend import Array, array_module
from ministn.kernels._checks import check_size, check_tensor, pair
from ministn.kernels._cuda import on_device
from ministn.kernels.projective_grid import HORIZON
from ministn.kernels.thin_plate_spline_grid import spline
from ministn.kernels.thin_plate_spline_grid.op import checked_control_points, regular_control_points


def fixed(*values: float) -> np.ndarray:
    """The parameters of an identity: a float32 array that nobody can write to."""
    array = np.array(values, np.float32)
    array.flags.writeable = False
    return array


class Transform:
    """What all transforms share. A subclass gives `identity`, `theta`, and `matrix_rows` or `grid` and `map_points`.

    >>> class Shear(Transform):
    ...     identity, matrix_rows = fixed(0), 2
    ...
    ...     def theta(self, parameters):
    ...         (k,) = self.columns(parameters)
    ...         return matrix([1, k, 0], [0, 1, 0])

    Attributes
    ----------
    identity : float32 array, shape (P,)
        The parameters with which every point stays where it is; read-only.
    num_parameters : int
        P.
    matrix_rows : int
        Of theta, where it is a matrix: 2 for affine maps, 3 for projective ones; 0 where it is none.
    """

    identity: np.ndarray
    matrix_rows: int = 0

    @property
    def num_parameters(self) -> int:
        return len(self.identity)

    def theta(self, parameters: Tensor) -> Tensor:
        """The transformation of each image: (N, P) to (N, matrix_rows, 3), or what `grid` and `map_points` take.

        Raises
        ------
        ValueError
            If there are not P parameters for each image.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no theta()")

    def grid(self, theta: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
        """Where each pixel of the output looks in the input.

        Parameters
        ----------
        theta : Tensor
            What the method `theta` returned.
        size : sequence of four integers (N, C, H, W)
            Of the output.
        align_corners : bool
            Whether -1 and 1 are the centres of the outer pixels, or (by default) their outer edges.

        Returns
        -------
        Tensor, shape (N, H, W, 2)
            Points (x, y) of the source, as `ministn.functional.grid_sample` takes them.
        """
        self._must_have_matrix("grid")
        make = F.affine_grid if self.matrix_rows == 2 else F.projective_grid
        return make(theta, size, align_corners)

    def map_points(self, theta: Tensor, points: Tensor | Array) -> Tensor:
        """The source points of any target points; `grid` for points that are no pixels.

        Parameters
        ----------
        theta : Tensor
            What the method `theta` returned.
        points : Tensor or array, shape (N, M, 2) or (M, 2)
            M points (x, y) for each image, or the same for all.

        Returns
        -------
        Tensor, shape (N, M, 2)
            Differentiable with respect to theta and, if they are a Tensor, the points.

        Raises
        ------
        TypeError, ValueError
            If theta or the points have other shapes, or both are Tensors and differ in dtype.
        """
        self._must_have_matrix("map_points")
        self._check_theta(theta, (self.matrix_rows,))
        points = _as_points(theta, points)
        rows = theta.transpose(1, 2)  # the columns of this are the rows of theta
        source = points @ rows[:, :2] + rows[:, 2:]  # (x, y, 1) times each row: x_s, y_s, or X, Y, w
        if self.matrix_rows == 2:
            return source
        return source[..., :2] / _beyond_the_horizon(source[..., 2:])

    def inverse(self, theta: Tensor) -> Tensor:
        """The theta of the way back: ``map_points(inverse(theta), map_points(theta, p))`` is p.

        Parameters
        ----------
        theta : Tensor, shape (N, matrix_rows, 3)

        Returns
        -------
        Tensor, shape (N, matrix_rows, 3)
            Infinite or NaN where the transformation maps the plane onto a line or a point.

        Raises
        ------
        NotImplementedError
            If theta is no matrix: the way back is then no transformation of the same kind.
        """
        self._must_have_matrix("inverse")
        self._check_theta(theta, (self.matrix_rows,))
        return F.inverse(self._square(theta))[:, : self.matrix_rows]

    def compose(self, theta_outer: Tensor, theta_inner: Tensor) -> Tensor:
        """One theta for two in turn: a target point meets `theta_inner` first, what comes out `theta_outer`.

        In matrices, with the row (0, 0, 1) below affine ones, that is the product outer inner. In images: a layer that
        warps by `theta_outer`, and behind it one that warps what that has put out by `theta_inner`.

        Parameters
        ----------
        theta_outer, theta_inner : Tensor, shape (N, matrix_rows, 3)
            For a projective transform (N, 2, 3), an affine map, too.

        Returns
        -------
        Tensor, shape (N, matrix_rows, 3)

        Raises
        ------
        NotImplementedError
            If theta is no matrix. `Compose` takes such transforms, too.
        """
        self._must_have_matrix("compose")
        return (self._square(theta_outer) @ self._square(theta_inner))[:, : self.matrix_rows]

    def columns(self, parameters: Tensor) -> list[Tensor]:
        """The parameters one by one, each of shape (N, 1); for `matrix`."""
        self._check(parameters)
        return [parameters[:, k : k + 1] for k in range(self.num_parameters)]

    def _check(self, parameters: Tensor) -> None:
        if parameters.ndim != 2 or parameters.shape[1] != self.num_parameters:
            raise ValueError(
                f"{self}: expected {self.num_parameters} parameters for each image, shape (N, {self.num_parameters}), "
                f"got {parameters.shape}"
            )

    def _square(self, theta: Tensor) -> Tensor:
        """theta with the row (0, 0, 1) below it, if it has but two: the same map, of (x, y, 1) to (x_s, y_s, 1)."""
        self._check_theta(theta, (2, self.matrix_rows))
        if theta.shape[1] == 3:
            return theta
        zero = _full(theta[:, :1, :1], 0)
        return F.concatenate([theta, F.concatenate([zero, zero, _full(zero, 1)], dim=2)], dim=1)

    def _check_theta(self, theta: Tensor, rows: tuple[int, ...]) -> None:
        check_tensor(str(self), "theta", theta, f"N {self.matrix_rows} 3")
        if theta.shape[2] != 3 or theta.shape[1] not in rows:
            raise ValueError(f"{self}: expected theta of shape (N, {self.matrix_rows}, 3), got {theta.shape}")

    def _must_have_matrix(self, what: str) -> None:
        if not self.matrix_rows:
            raise NotImplementedError(f"{self} defines no {what}(), and has no matrix that would give it")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


# --- the transforms whose theta is a matrix ---------------------------------------------------------------------------


class Translation(Transform):
    r"""Look further right by t_x and further down by t_y, in half widths and heights of the picture.

    .. math:: x_s = x_t + t_x, \quad y_s = y_t + t_y
    """

    identity, matrix_rows = fixed(0, 0), 2

    def theta(self, parameters: Tensor) -> Tensor:
        t_x, t_y = self.columns(parameters)
        return matrix([1, 0, t_x], [0, 1, t_y])


class Rotation(Transform):
    r"""Turn the grid about the centre by an angle in radians.

    .. math:: x_s = x_t \cos\varphi - y_t \sin\varphi, \quad y_s = x_t \sin\varphi + y_t \cos\varphi

    As y points down, a positive angle turns the grid clockwise on the screen, and the picture anti-clockwise. On a
    picture that is not square this is a rotation of normalised coordinates, not of pixels.
    """

    identity, matrix_rows = fixed(0), 2

    def theta(self, parameters: Tensor) -> Tensor:
        (angle,) = self.columns(parameters)
        cos, sin = F.cos(angle), F.sin(angle)
        return matrix([cos, -sin, 0], [sin, cos, 0])


class Attention(Transform):
    r"""Read a window of s times the size of the input, with its centre at (t_x, t_y): equation (2) of the paper.

    .. math:: x_s = s \, x_t + t_x, \quad y_s = s \, y_t + t_y
    """

    identity, matrix_rows = fixed(1, 0, 0), 2

    def theta(self, parameters: Tensor) -> Tensor:
        s, t_x, t_y = self.columns(parameters)
        return matrix([s, 0, t_x], [0, s, t_y])


class Similarity(Transform):
    r"""Turn, scale and shift, all linear in the parameters: a = s cos(phi), b = s sin(phi).

    .. math:: x_s = a \, x_t - b \, y_t + t_x, \quad y_s = b \, x_t + a \, y_t + t_y

    Once around, a and b change smoothly all the way, where an angle jumps from 180 to -180 degrees.
    """

    identity, matrix_rows = fixed(1, 0, 0, 0), 2

    def theta(self, parameters: Tensor) -> Tensor:
        a, b, t_x, t_y = self.columns(parameters)
        return matrix([a, -b, t_x], [b, a, t_y])


class Affine(Transform):
    r"""Parallel lines stay parallel: equation (1) of the paper. The parameters are theta's rows, one after another.

    .. math::
        \begin{pmatrix} x_s \\ y_s \end{pmatrix} =
        \begin{pmatrix} \theta_{11} & \theta_{12} & \theta_{13} \\ \theta_{21} & \theta_{22} & \theta_{23} \end{pmatrix}
        \begin{pmatrix} x_t \\ y_t \\ 1 \end{pmatrix}
    """

    identity, matrix_rows = fixed(1, 0, 0, 0, 1, 0), 2

    def theta(self, parameters: Tensor) -> Tensor:
        self._check(parameters)
        return parameters.reshape(parameters.shape[0], 2, 3)


class Projective(Transform):
    r"""Straight lines stay straight: what a camera sees of a plane. The ninth element of theta is 1.

    .. math::
        \begin{pmatrix} X \\ Y \\ w \end{pmatrix} =
        \begin{pmatrix}
            \theta_{11} & \theta_{12} & \theta_{13} \\ \theta_{21} & \theta_{22} & \theta_{23} \\
            \theta_{31} & \theta_{32} & 1
        \end{pmatrix}
        \begin{pmatrix} x_t \\ y_t \\ 1 \end{pmatrix}, \quad x_s = X / w, \quad y_s = Y / w

    Near the horizon, where w is 0, see `ministn.functional.projective_grid`. A composition or an inverse need not have
    a 1 there: they are right for any theta (N, 3, 3), as only ratios count.
    """

    identity, matrix_rows = fixed(1, 0, 0, 0, 1, 0, 0, 0), 3

    def theta(self, parameters: Tensor) -> Tensor:
        self._check(parameters)
        one = _full(parameters[:, :1], 1)
        return F.concatenate([parameters, one], dim=1).reshape(parameters.shape[0], 3, 3)


# --- a transform whose theta is no matrix -----------------------------------------------------------------------------


class ThinPlateSpline(Transform):
    r"""Bend the plane like a thin sheet of metal: K control points say where they go, and the rest follows smoothly.

    .. math::
        f(p) = a_0 + a_1 x + a_2 y + \sum_k w_k \, U(|p - c_k|), \qquad U(r) = r^2 \log r^2,
        \qquad f(c_k) = \theta_k

    See `ministn.functional.thin_plate_spline_grid`. The parameters, and theta (N, K, 2), are the points (x, y) of the
    source at which the control points c_k of the target look: all the points, not how far they move.

    Parameters
    ----------
    control_points : int, (rows, columns) or array (K, 2)
        A regular grid of them over [-1, 1]^2, row by row from the top (one number: as many rows as columns); or any
        points (x, y), not all on a line and no two alike. They are rounded to float32, so that the identity is the
        same numbers in every dtype.

    Attributes
    ----------
    control_points : float64 array, shape (K, 2)
        Read-only.
    """

    def __init__(self, control_points: int | tuple[int, int] | np.ndarray = 4) -> None:
        if np.ndim(control_points) < 2:
            control_points = regular_control_points(*pair("ThinPlateSpline", "control_points", control_points, 2))
        rounded = np.asarray(control_points, np.float32).astype(np.float64)
        self._points = checked_control_points("ThinPlateSpline", rounded)  # as tuples, under which tables are kept
        self.identity = fixed(*rounded.ravel())
        self.control_points = rounded
        self.control_points.flags.writeable = False

    def theta(self, parameters: Tensor) -> Tensor:
        self._check(parameters)
        return parameters.reshape(parameters.shape[0], len(self._points), 2)

    def grid(self, theta: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
        """As `Transform.grid`; theta (N, K, 2)."""
        return F.thin_plate_spline_grid(theta, self.control_points, size, align_corners)

    def map_points(self, theta: Tensor, points: Tensor | Array) -> Tensor:
        """As `Transform.map_points`; theta (N, K, 2)."""
        check_tensor(str(self), "theta", theta, f"N {len(self._points)} 2")
        if theta.shape[1:] != self.control_points.shape:
            raise ValueError(f"{self}: expected theta of shape (N, {len(self._points)}, 2), got {theta.shape}")
        points = _as_points(theta, points)
        xp, dtype = array_module(theta.data), theta.dtype
        control_points = Tensor(on_device(xp, spline.identity, self._points, dtype))
        coefficients = Tensor(on_device(xp, _spline_coefficients, self._points, dtype))
        difference = points[..., None, :] - control_points  # (N, M, K, 2)
        radial = F.xlogx((difference * difference).sum(-1))
        features = F.concatenate([radial, _full(points[..., :1], 1), points], dim=-1)  # (N, M, K + 3)
        return points + features @ coefficients @ (theta - control_points)

    def inverse(self, theta: Tensor) -> Tensor:
        """There is none in closed form: the way back is no thin plate spline, and where the sheet folds there is none.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            "ThinPlateSpline.inverse: a thin plate spline has no inverse in closed form; the spline from the moved "
            "points back to the control points is only near to it"
        )

    def __repr__(self) -> str:
        return f"ThinPlateSpline({len(self._points)} control points)"


# --- transforms made of others ----------------------------------------------------------------------------------------


class Bounded(Transform):
    r"""Another transform, with parameters that stay near its identity, whatever the network puts out.

    .. math:: \text{parameters}_k = \text{identity}_k + b_k \tanh(\text{raw}_k)

    With b = 0.5 the scale of an `Attention` stays between 0.5 and 1.5. So the image is never lost from sight, where no
    gradient would come back; but far from raw = 0, which is the identity, tanh itself passes hardly any.

    Parameters
    ----------
    transform : Transform or str
        What the parameters are for, or its name.
    bound : float or sequence of P floats
        b: how far each parameter may go from the identity's.
    """

    def __init__(self, transform: Transform | str, bound: float | Sequence[float]) -> None:
        self.transform = get(transform)
        count = self.transform.num_parameters
        bounds = np.asarray(bound, np.float64)
        if bounds.shape not in ((), (count,)) or not np.all((bounds > 0) & np.isfinite(bounds)):
            raise ValueError(f"Bounded: expected bound to be a positive number, or {count} of them, got {bound!r}")
        self.bound = tuple(np.broadcast_to(bounds, count).tolist())
        self.identity = fixed(*[0] * count)
        self.matrix_rows = self.transform.matrix_rows

    def theta(self, parameters: Tensor) -> Tensor:
        self._check(parameters)
        xp, dtype = array_module(parameters.data), parameters.dtype
        centre = Tensor(on_device(xp, _table, tuple(self.transform.identity.tolist()), dtype))
        bound = Tensor(on_device(xp, _table, self.bound, dtype))
        return self.transform.theta(centre + bound * parameters.tanh())

    def grid(self, theta: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
        return self.transform.grid(theta, size, align_corners)

    def map_points(self, theta: Tensor, points: Tensor | Array) -> Tensor:
        return self.transform.map_points(theta, points)

    def inverse(self, theta: Tensor) -> Tensor:
        return self.transform.inverse(theta)

    def compose(self, theta_outer: Tensor, theta_inner: Tensor) -> Tensor:
        return self.transform.compose(theta_outer, theta_inner)

    def __repr__(self) -> str:
        bound = self.bound[0] if len(set(self.bound)) == 1 else self.bound
        return f"Bounded({self.transform}, bound={bound})"


class Compose(Transform):
    r"""One transform after another: a target point meets the first one first, what comes out the second, and so on.

    .. math:: p_s = T_n(\dots T_2(T_1(p_t))), \qquad \theta = \theta_n \cdots \theta_2 \, \theta_1

    As layers on images, that is the other way about: ``Compose(a, b)`` does what a layer with b and behind it one with
    a do. But it samples only once, so it blurs only once, and what lies outside the picture in between is not lost.

    The parameters are those of the first transform, then those of the second, ... theta is the product of the
    matrices; if one of the transforms has none, it is the parameters themselves, (N, P).

    Parameters
    ----------
    *transforms : Transform or str
        At least one, or their names.
    """

    def __init__(self, *transforms: Transform | str) -> None:
        if not transforms:
            raise ValueError("Compose: expected at least one transform, got none")
        self.transforms = tuple(get(transform) for transform in transforms)
        self.identity = fixed(*np.concatenate([transform.identity for transform in self.transforms]))
        rows = [transform.matrix_rows for transform in self.transforms]
        self.matrix_rows = max(rows) if all(rows) else 0

    def theta(self, parameters: Tensor) -> Tensor:
        self._check(parameters)
        if not self.matrix_rows:
            return parameters
        theta, *others = self._thetas(parameters)
        for outer in others:
            theta = self.compose(outer, theta)
        return theta

    def grid(self, theta: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
        """As `Transform.grid`. Without a matrix, the first transform makes a grid, and the others map its points."""
        if self.matrix_rows:
            return super().grid(theta, size, align_corners)
        first, *others = self._thetas(theta)
        grid = self.transforms[0].grid(first, size, align_corners)
        points = grid.reshape(grid.shape[0], grid.shape[1] * grid.shape[2], 2)
        for transform, theta_of_it in zip(self.transforms[1:], others, strict=True):
            points = transform.map_points(theta_of_it, points)
        return points.reshape(grid.shape)

    def map_points(self, theta: Tensor, points: Tensor | Array) -> Tensor:
        """As `Transform.map_points`."""
        if self.matrix_rows:
            return super().map_points(theta, points)
        for transform, theta_of_it in zip(self.transforms, self._thetas(theta), strict=True):
            points = transform.map_points(theta_of_it, points)
        return points

    def _thetas(self, parameters: Tensor) -> list[Tensor]:
        """theta of each transform."""
        self._check(parameters)
        ends = list(itertools.accumulate(transform.num_parameters for transform in self.transforms))
        return [
            transform.theta(parameters[:, end - transform.num_parameters : end])
            for transform, end in zip(self.transforms, ends, strict=True)
        ]

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.transforms))})"


# --- by name ----------------------------------------------------------------------------------------------------------

_BY_NAME: dict[str, Callable[[], Transform]] = {
    "translation": Translation,
    "rotation": Rotation,
    "attention": Attention,
    "similarity": Similarity,
    "affine": Affine,
    "projective": Projective,
    "tps": ThinPlateSpline,
}


def get(transform: str | Transform) -> Transform:
    """The transform of a name; a Transform as it is.

    Parameters
    ----------
    transform : {"translation", "rotation", "attention", "similarity", "affine", "projective", "tps"} or Transform
        "tps" is a `ThinPlateSpline` of 4 x 4 control points.

    Raises
    ------
    ValueError
        For another name.
    TypeError
        For something else.
    """
    if isinstance(transform, Transform):
        return transform
    if not isinstance(transform, str):
        got = f"the class {transform.__name__}" if isinstance(transform, type) else type(transform).__name__
        raise TypeError(f"transforms.get: expected a Transform or a name, got {got}")
    if transform not in _BY_NAME:
        raise ValueError(f"transforms.get: expected one of {', '.join(map(repr, _BY_NAME))}, got {transform!r}")
    return _BY_NAME[transform]()


# --- helpers ----------------------------------------------------------------------------------------------------------


def matrix(*rows: Sequence[Tensor | float]) -> Tensor:
    """The matrices (N, rows, columns) with these elements: Tensors (N, 1), or numbers, which are the same in all.

    >>> t_x = Tensor([[0.5], [0.25]])
    >>> matrix([1, 0, t_x], [0, 1, 0]).shape
    (2, 2, 3)
    """
    elements = [element for row in rows for element in row]
    like = next(element for element in elements if isinstance(element, Tensor))
    columns = [element if isinstance(element, Tensor) else _full(like, element) for element in elements]
    return F.concatenate(columns, dim=1).reshape(like.shape[0], len(rows), len(rows[0]))


def _full(like: Tensor, value: float) -> Tensor:
    """A number in the shape, in the dtype and where `like` is."""
    return Tensor(array_module(like.data).full(like.shape, value, like.dtype))


def _as_points(theta: Tensor, points: Tensor | Array) -> Tensor:
    if not isinstance(points, Tensor):
        points = Tensor(array_module(theta.data).asarray(points, theta.dtype))
    if points.ndim not in (2, 3) or points.shape[-1] != 2:
        raise ValueError(f"map_points: expected points of shape (N, M, 2) or (M, 2), got {points.shape}")
    if points.ndim == 3:
        check_size("map_points", "points", "0", theta.shape[0], points.shape[0], "N of theta")
    return points


def _beyond_the_horizon(w: Tensor) -> Tensor:
    """w, kept away from 0 as in `ministn.functional.projective_grid`: there its gradient is 0, too."""
    xp, near = array_module(w.data), abs(w.data) < HORIZON
    instead = xp.where(near, xp.where(w.data < 0, -HORIZON, HORIZON), 0)
    return w * Tensor((~near).astype(w.dtype)) + Tensor(instead.astype(w.dtype))


def _table(values: tuple[Any, ...], dtype: Any) -> np.ndarray:
    return np.array(values, dtype)


def _spline_coefficients(control_points: tuple[tuple[float, float], ...], dtype: Any) -> np.ndarray:
    """What turns displacements of the K control points into the K + 3 coefficients of the spline, (K + 3, K)."""
    return np.linalg.inv(spline.system(control_points))[:, : len(control_points)].astype(dtype)
