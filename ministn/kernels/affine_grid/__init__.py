from ministn.kernels.affine_grid.op import AffineGrid, affine_grid

__all__ = ["AffineGrid", "affine_grid"]
