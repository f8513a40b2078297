from ministn.kernels.grid_sample.op import GridSample, grid_sample

__all__ = ["GridSample", "grid_sample"]
