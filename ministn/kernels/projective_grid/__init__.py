from ministn.kernels.projective_grid.op import HORIZON, ProjectiveGrid, projective_grid

__all__ = ["HORIZON", "ProjectiveGrid", "projective_grid"]
