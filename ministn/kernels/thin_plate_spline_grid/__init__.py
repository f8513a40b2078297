from ministn.kernels.thin_plate_spline_grid.op import (
    ThinPlateSplineGrid,
    regular_control_points,
    thin_plate_spline_grid,
)

__all__ = ["ThinPlateSplineGrid", "regular_control_points", "thin_plate_spline_grid"]
