"""ministn: Spatial Transformer Networks from scratch, to be read.

Importing it loads NumPy and nothing heavier: Numba comes with the first kernel, CuPy with the first GPU array.
"""

from ministn import functional, nn, ops, optim
from ministn.anomaly import AnomalyError, detect_anomaly
from ministn.autodiff import Function, GradcheckError, Tensor, gradcheck, no_grad
from ministn.backend import (
    DeviceError,
    get_num_threads,
    set_num_threads,
    synchronize,
    use_deterministic_kernels,
    use_kernels,
)
from ministn.random import manual_seed

tensor = Tensor
__version__ = "0.1.0"

__all__ = [
    "AnomalyError",
    "DeviceError",
    "Function",
    "GradcheckError",
    "Tensor",
    "detect_anomaly",
    "functional",
    "get_num_threads",
    "gradcheck",
    "manual_seed",
    "nn",
    "no_grad",
    "ops",
    "optim",
    "set_num_threads",
    "synchronize",
    "tensor",
    "use_deterministic_kernels",
    "use_kernels",
]
