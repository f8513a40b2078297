from ministn.kernels.spatial_transform.op import SpatialTransform, spatial_transform

__all__ = ["SpatialTransform", "spatial_transform"]
