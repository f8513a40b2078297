"""Modules one after another or side by side, and the step from images to vectors between them."""

from __future__ import annotations

from collections.abc import Iterator

from ministn import functional as F
from ministn.autodiff import Tensor
from ministn.nn.activation import ReLU
from ministn.nn.module import Module
from ministn.nn.pooling import MaxPool2d


class _Container(Module):
    """Modules that are named "0", "1", ... in order."""

    def __init__(self, *modules: Module) -> None:
        for index, module in enumerate(modules):
            if not isinstance(module, Module):
                name = type(self).__name__
                raise TypeError(f"{name}: expected modules, got {type(module).__name__} at position {index}")
            setattr(self, str(index), module)

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __getitem__(self, index: int) -> Module:
        return list(self.children())[index]


class Sequential(_Container):
    """The output of each module is the input of the next; they are named "0", "1", ... in order.

    Parameters
    ----------
    *modules : Module
    """

    def forward(self, input: Tensor) -> Tensor:
        """`input` through all the modules. A max pooling takes on the ReLU that follows it: one pass instead of two."""
        modules = [module for module in vars(self).values() if isinstance(module, Module)]  # as `children`, but faster
        joined = False
        for module, following in zip(modules, [*modules, None][1:], strict=True):
            if joined:  # this ReLU is done already
                joined = False
                continue
            joined = type(module) is MaxPool2d and type(following) is ReLU
            input = module(input, relu=True) if joined else module(input)
        return input


class Parallel(_Container):
    """The same input to each module, their outputs side by side as channels; they are named "0", "1", ... in order.

    Two spatial transformers in parallel look at an image of two objects, and each brings one of them to the middle.

    Parameters
    ----------
    *modules : Module
        At least one.

    References
    ----------
    Jaderberg et al. (2015), "Spatial transformer networks", arXiv:1506.02025, appendix A.1.
    """

    def __init__(self, *modules: Module) -> None:
        if not modules:
            raise ValueError("Parallel: expected at least one module, got none")
        super().__init__(*modules)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) to (N, C_0 + C_1 + ..., ...). The outputs must agree in N and in the axes after the channels."""
        return F.concatenate([module(input) for module in self], dim=1)


class Flatten(Module):
    """The axes from `start_dim` to `end_dim` as one: by default (N, C, H, W) to (N, C H W).

    Parameters
    ----------
    start_dim, end_dim : int
        The first and the last of the axes that become one; negative numbers count from the end.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        """The same elements in the same order, with fewer axes.

        Parameters
        ----------
        input : Tensor, shape (n_0, ..., n_d)

        Returns
        -------
        Tensor, shape (..., n_start_dim * ... * n_end_dim, ...)
            The axes before `start_dim` and after `end_dim` are as they were.
        """
        return F.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
