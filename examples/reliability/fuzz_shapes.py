"""Call every public function with shapes, options and arrays of all kinds, right and wrong, and compare with PyTorch.

    python examples/reliability/fuzz_shapes.py --calls 300

A call is drawn from the function's entry in `CASES`: small arrays in any memory layout, options that fit. Half of
the calls then get one fault: an argument of another shape, dtype, type or value. A call must

* return what PyTorch returns, values and gradients, or
* raise ValueError or TypeError with a message that begins with the function's name and says what was expected and got;
  never where nothing is wrong.

"wider" counts what PyTorch refuses and ministn takes on purpose, see `WIDER`; "unchecked" what PyTorch does not have.
Prints what broke the rule, with the seed of the call, and writes reliability-shapes.json to the folder.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import operator
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import ministn.functional as F
from ministn import Tensor, nn, optim, records
from ministn.data import DataLoader, random_shift

LAYOUTS = ["C", "F", "batch last", "negative strides", "every second", "read-only", "big-endian", "unaligned"]


def laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    """The values of `array` in another memory layout."""
    if layout == "F" and array.ndim:  # of a 0-d array NumPy would make one with an axis
        return np.asfortranarray(array)
    if layout == "batch last" and array.ndim:
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 0, -1)), -1, 0)
    if layout == "negative strides":
        return np.flip(np.flip(array).copy())
    if layout == "every second" and array.ndim:
        spread = np.full([2 * length for length in array.shape], 7, array.dtype)
        every_second = spread[(slice(None, None, 2),) * array.ndim]
        every_second[...] = array
        return every_second
    if layout == "big-endian":
        return array.astype(array.dtype.newbyteorder(">"))
    if layout == "unaligned":
        memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
        return np.copyto(copy := memory.view(array.dtype).reshape(array.shape), array) or copy
    array = array.copy()
    array.flags.writeable = layout != "read-only"
    return array


class Draw:
    """Random arguments that fit."""

    def __init__(self, seed: Any) -> None:
        self.random = np.random.default_rng(seed)
        self.dtype = self.choice(np.float32, np.float64)

    def choice(self, *values: Any) -> Any:
        return values[self.random.integers(len(values))]

    def size(self, low: int = 1, high: int = 6) -> int:
        return int(self.random.integers(low, high + 1))

    def batch(self) -> int:
        return self.choice(0, 1, 2, 3, 17)

    def shape(self, low: int = 0, high: int = 4) -> tuple[int, ...]:
        return tuple(self.choice(0, 1, 2, 3, 5) for _ in range(self.size(low, high)))

    def either(self, low: int, high: int) -> Any:
        """An integer, or a pair."""
        return self.choice(self.size(low, high), (self.size(low, high), self.size(low, high)))

    def tensor(self, *shape: int, positive: bool = False) -> Tensor:
        values = self.random.standard_normal(shape).astype(self.dtype)
        layout = self.choice(*LAYOUTS)
        return Tensor(laid_out(np.asarray(abs(values) + 0.1 if positive else values, self.dtype), layout), True)

    def labels(self, count: int, classes: int) -> Any:
        labels = self.random.integers(0, classes, count).astype(self.choice(np.int64, np.int32, np.uint8))
        return self.choice(laid_out(labels, self.choice(*LAYOUTS)), Tensor(labels))


class Call(NamedTuple):
    """What is called, with which arguments, and what PyTorch has for it (None: nothing)."""

    function: Callable[..., Any]
    arguments: dict[str, Any]
    torch: Callable[..., Any] | None = None


def _torch() -> Any:
    import torch

    return torch


def _tf(name: str, **fixed: Any) -> Callable[..., Any]:
    return lambda **arguments: getattr(_torch().nn.functional, name)(**arguments, **fixed)


def _method(name: str) -> Callable[..., Any]:
    return lambda x, **arguments: getattr(x, name)(**arguments)


# --- ministn.functional ---------------------------------------------------------------------------------------------


def affine_grid(d: Draw) -> Call:
    n, size = d.batch(), (d.size(), d.size(), d.size())
    arguments = {"theta": d.tensor(n, 2, 3), "size": (n, *size), "align_corners": d.choice(True, False)}
    return Call(F.affine_grid, arguments, _tf("affine_grid"))


def projective_grid(d: Draw) -> Call:
    n, size = d.batch(), (d.size(), d.size(), d.size())
    theta = np.eye(3, dtype=d.dtype) + 0.1 * d.random.standard_normal((n, 3, 3)).astype(d.dtype)
    theta = Tensor(laid_out(theta.astype(d.dtype), d.choice(*LAYOUTS)), True)

    def by_torch(theta: Any, size: Any, align_corners: Any) -> Any:
        torch = _torch()
        identity = torch.eye(3, dtype=theta.dtype)[None, :2]
        points = torch.nn.functional.affine_grid(identity, [1, *size[1:]], align_corners)[0]
        points = torch.cat([points, torch.ones_like(points[..., :1])], -1)
        x, y, w = torch.einsum("nij,hwj->inhw", theta, points)
        return torch.stack([x / w, y / w], -1)

    return Call(
        F.projective_grid, {"theta": theta, "size": (n, *size), "align_corners": d.choice(True, False)}, by_torch
    )


def thin_plate_spline_grid(d: Draw) -> Call:
    n, k = d.batch(), d.size(3, 6)
    arguments = {
        "theta": d.tensor(n, k, 2),
        "control_points": d.random.uniform(-1, 1, (k, 2)),
        "size": (n, d.size(), d.size(), d.size()),
        "align_corners": d.choice(True, False),
    }
    return Call(F.thin_plate_spline_grid, arguments)


def grid_sample(d: Draw) -> Call:
    n = d.batch()
    arguments = {
        "input": d.tensor(n, d.choice(0, 1, 3, 17), d.size(1, 9), d.size(1, 9)),
        "grid": d.tensor(n, d.choice(0, 1, 3, 6), d.choice(0, 1, 4, 17), 2),
        "mode": d.choice("bilinear", "nearest", "bicubic"),
        "padding_mode": d.choice("zeros", "border", "reflection"),
        "align_corners": d.choice(True, False),
    }
    return Call(F.grid_sample, arguments, _tf("grid_sample"))


def spatial_transform(d: Draw) -> Call:
    n = d.batch()
    arguments = {
        "input": d.tensor(n, d.choice(0, 1, 3), d.size(1, 9), d.size(1, 9)),
        "theta": d.tensor(n, 2, 3),
        "output_size": d.choice(None, (d.size(), d.size())),
        "align_corners": d.choice(True, False),
    }

    def by_torch(input: Any, theta: Any, output_size: Any, align_corners: Any) -> Any:
        f = _torch().nn.functional
        output_size = (output_size, output_size) if isinstance(output_size, int) else output_size
        size = (*input.shape[:2], *(output_size or input.shape[2:]))
        grid = f.affine_grid(theta, (size[0], 1, *size[2:]), align_corners)
        return f.grid_sample(input, grid, align_corners=align_corners)

    return Call(F.spatial_transform, arguments, by_torch)


def conv2d(d: Draw) -> Call:
    n, c, o, k = d.batch(), d.size(1, 4), d.choice(1, 2, 17), (d.size(1, 3), d.size(1, 3))
    arguments = {
        "input": d.tensor(n, c, d.size(5, 9), d.size(5, 9)),
        "weight": d.tensor(o, c, *k),
        "bias": d.choice(None, d.tensor(o)),
        "stride": d.either(1, 3),
        "padding": d.either(0, 3),
        "dilation": d.either(1, 2),
    }
    return Call(F.conv2d, arguments, _tf("conv2d"))


def conv_transpose2d(d: Draw) -> Call:
    n, c, o, k = d.batch(), d.size(1, 4), d.choice(1, 2, 17), (d.size(2, 3), d.size(2, 3))
    stride = d.either(1, 3)
    arguments = {
        "input": d.tensor(n, c, d.size(2, 6), d.size(2, 6)),
        "weight": d.tensor(c, o, *k),
        "bias": d.choice(None, d.tensor(o)),
        "stride": stride,
        "padding": d.either(0, 1),
        "output_padding": d.size(0, np.min(stride) - 1),
        "dilation": d.either(1, 2),
    }
    return Call(F.conv_transpose2d, arguments, _tf("conv_transpose2d"))


def _pooling(d: Draw) -> dict[str, Any]:
    kernel = d.either(1, 3)
    return {
        "input": d.tensor(d.batch(), d.choice(1, 2, 17), d.size(3, 9), d.size(3, 9)),
        "kernel_size": kernel,
        "stride": d.choice(None, d.either(1, 4)),
        "padding": d.size(0, np.min(kernel) // 2),
        "ceil_mode": d.choice(True, False),
    }


def max_pool2d(d: Draw) -> Call:
    arguments = {**_pooling(d), "relu": d.choice(True, False)}

    def by_torch(relu: Any, **others: Any) -> Any:
        y = _torch().nn.functional.max_pool2d(**others)
        return y.relu() if relu else y

    return Call(F.max_pool2d, arguments, by_torch)


def avg_pool2d(d: Draw) -> Call:
    arguments = {**_pooling(d), "count_include_pad": d.choice(True, False)}
    return Call(F.avg_pool2d, arguments, _tf("avg_pool2d"))


def linear(d: Draw) -> Call:
    i, o = d.choice(0, 1, 2, 17), d.choice(0, 1, 2, 17)
    arguments = {"input": d.tensor(d.batch(), i), "weight": d.tensor(o, i), "bias": d.choice(None, d.tensor(o))}
    return Call(F.linear, arguments, _tf("linear"))


def matmul(d: Draw) -> Call:
    shape, n, k, m = d.choice((), (2,), (1, 3), (0,)), d.choice(0, 1, 3), d.choice(0, 1, 4), d.choice(0, 1, 5)
    a, b = d.tensor(*shape, n, k), d.tensor(*d.choice(shape, ()), k, m)
    return Call(F.matmul, {"a": a, "b": b}, lambda a, b: a @ b)


def inverse(d: Draw) -> Call:
    shape = d.shape(0, 2)
    a = Tensor(
        laid_out((np.eye(3) + 0.1 * d.random.standard_normal((*shape, 3, 3))).astype(d.dtype), d.choice(*LAYOUTS)), True
    )
    return Call(F.inverse, {"a": a}, lambda a: _torch().linalg.inv(a))


def _elementwise(name: str, positive: bool = False) -> Callable[[Draw], Call]:
    def case(d: Draw) -> Call:
        function = (lambda x: _torch().xlogy(x, x)) if name == "xlogx" else (lambda x: getattr(_torch(), name)(x))
        return Call(getattr(F, name), {"x": d.tensor(*d.shape(), positive=positive)}, function)

    return case


def _softmax(name: str) -> Callable[[Draw], Call]:
    def case(d: Draw) -> Call:
        x = d.tensor(*[d.choice(0, 1, 2, 17) for _ in range(d.size(1, 3))])
        arguments = {"x": x, "dim": d.size(-x.ndim, x.ndim - 1)}
        return Call(getattr(F, name), arguments, lambda x, dim: getattr(_torch(), name)(x, dim=dim))

    return case


def _label_loss(name: str, first: str, **options: Callable[[Draw], Any]) -> Callable[[Draw], Call]:
    def case(d: Draw) -> Call:
        n, k = d.size(1, 5), d.size(1, 5)
        arguments = {
            first: d.tensor(n, k),
            "labels": d.labels(n, k),
            "reduction": d.choice("mean", "sum", "none"),
            **{option: draw(d) for option, draw in options.items()},
        }

        def by_torch(labels: Any, **others: Any) -> Any:
            scores = others.pop(first)
            if name == "nll_loss" and (smoothing := others.pop("label_smoothing")):
                picked = _torch().nn.functional.nll_loss(scores, labels.long(), reduction="none")
                losses = (1 - smoothing) * picked - smoothing * scores.mean(1)
                return {"mean": losses.mean, "sum": losses.sum, "none": lambda: losses}[others["reduction"]]()
            return getattr(_torch().nn.functional, name)(scores, labels.long(), **others)

        return Call(getattr(F, name), arguments, by_torch)

    return case


def _two_array_loss(name: str, **more: Callable[[Draw], Any]) -> Callable[[Draw], Call]:
    def case(d: Draw) -> Call:
        shape = [d.size(1, 4) for _ in range(d.size(0, 3))]
        target = Tensor(d.random.uniform(0, 1, shape).astype(d.dtype))
        arguments = {"input": d.tensor(*shape), "target": target, "reduction": d.choice("mean", "sum", "none")}
        arguments |= {argument: draw(d) for argument, draw in more.items()}
        return Call(getattr(F, name), arguments, _tf(name))

    return case


def batch_norm(d: Draw) -> Call:
    c, rest = d.choice(1, 3, 17), d.choice((), (2,), (3, 4))
    arguments = {
        "input": d.tensor(d.size(2, 18), c, *rest),
        "running_mean": Tensor(d.random.standard_normal(c).astype(d.dtype)),
        "running_var": Tensor(d.random.uniform(0.5, 2, c).astype(d.dtype)),
        "weight": d.tensor(c),
        "bias": d.tensor(c),
        "training": d.choice(True, False),
        "momentum": d.choice(0, 0.1, 1),
        "eps": d.choice(1e-5, 0.1),
    }
    return Call(F.batch_norm, arguments, _tf("batch_norm"))


def _dropout(name: str) -> Callable[[Draw], Call]:
    def case(d: Draw) -> Call:
        shape = d.shape() if name == "dropout" else (d.batch(), d.size(), d.size(), d.size())
        p = d.choice(0, 0.0, 1, 1.0)  # what is random is not PyTorch's
        arguments = {"input": d.tensor(*shape), "p": p, "training": d.choice(True, False)}
        return Call(getattr(F, name), arguments, _tf(name))

    return case


def concatenate(d: Draw) -> Call:
    ndim = d.size(1, 4)
    dim, shape = d.size(-ndim, ndim - 1), [d.size(1, 4) for _ in range(ndim)]
    tensors = []
    for _ in range(d.size(1, 3)):
        shape[dim] = d.choice(0, 1, 3)
        tensors.append(d.tensor(*shape))
    return Call(F.concatenate, {"tensors": tensors, "dim": dim}, lambda tensors, dim: _torch().cat(tensors, dim))


def flatten(d: Draw) -> Call:
    x = d.tensor(*d.shape())
    start = d.size(0, max(x.ndim - 1, 0))
    arguments = {"x": x, "start_dim": start, "end_dim": d.choice(-1, d.size(start, max(x.ndim - 1, 0)))}
    return Call(F.flatten, arguments, lambda x, start_dim, end_dim: _torch().flatten(x, start_dim, end_dim))


FUNCTIONAL: dict[str, Callable[[Draw], Call]] = {
    "affine_grid": affine_grid,
    "avg_pool2d": avg_pool2d,
    "batch_norm": batch_norm,
    "binary_cross_entropy_with_logits": _two_array_loss("binary_cross_entropy_with_logits"),
    "concatenate": concatenate,
    "conv2d": conv2d,
    "conv_transpose2d": conv_transpose2d,
    "cross_entropy": _label_loss("cross_entropy", "logits", label_smoothing=lambda d: d.choice(0.0, 0.1, 1)),
    "dropout": _dropout("dropout"),
    "dropout2d": _dropout("dropout2d"),
    "flatten": flatten,
    "grid_sample": grid_sample,
    "inverse": inverse,
    "linear": linear,
    "log_softmax": _softmax("log_softmax"),
    "matmul": matmul,
    "max_pool2d": max_pool2d,
    "mse_loss": _two_array_loss("mse_loss"),
    "multi_margin_loss": _label_loss(
        "multi_margin_loss", "scores", p=lambda d: d.choice(1, 2), margin=lambda d: d.choice(1.0, 0.5)
    ),
    "nll_loss": _label_loss("nll_loss", "log_probabilities", label_smoothing=lambda d: d.choice(0.0, 0.1, 1)),
    "projective_grid": projective_grid,
    "smooth_l1_loss": _two_array_loss("smooth_l1_loss", beta=lambda d: d.choice(1.0, 0.5, 2)),
    "softmax": _softmax("softmax"),
    "spatial_transform": spatial_transform,
    "thin_plate_spline_grid": thin_plate_spline_grid,
    **{name: _elementwise(name) for name in ("cos", "exp", "relu", "sigmoid", "sin", "tanh")},
    **{name: _elementwise(name, positive=True) for name in ("log", "xlogx")},
}


# --- what a Tensor can do -------------------------------------------------------------------------------------------


def _binary(name: str) -> Callable[[Draw], Call]:
    operation = getattr(operator, name)

    def case(d: Draw) -> Call:
        shape = d.shape()
        other = tuple(d.choice(length, 1) for length in shape)[d.size(0, len(shape)) :]
        a, b = d.tensor(*shape), d.choice(d.tensor(*other), 2.5, 3)
        return Call(lambda a, b: operation(a, b), {"a": a, "b": b}, lambda a, b: operation(a, b))

    return case


def _reduction(name: str) -> Callable[[Draw], Call]:
    def case(d: Draw) -> Call:
        x = d.tensor(*[d.size(1, 4) for _ in range(d.size(1, 4))])
        dims = tuple(d.random.permutation(x.ndim)[: d.size(1, x.ndim)].tolist())
        arguments = {"x": x, "dim": d.choice(None, d.size(-x.ndim, x.ndim - 1), dims), "keepdim": d.choice(True, False)}

        def by_torch(x: Any, dim: Any, keepdim: Any) -> Any:
            dim = tuple(range(x.ndim)) if dim is None else dim
            return (x.amax if name == "max" else getattr(x, name))(dim=dim, keepdim=keepdim)

        return Call(_method(name), arguments, by_torch)

    return case


def argmax(d: Draw) -> Call:
    x = d.tensor(*[d.size(1, 4) for _ in range(d.size(1, 4))])
    return Call(_method("argmax"), {"x": x, "dim": d.choice(None, d.size(-x.ndim, x.ndim - 1))}, _method("argmax"))


def reshape(d: Draw) -> Call:
    x = d.tensor(*d.shape())
    shape = d.choice((x.numel(),), (1, x.numel()), (-1,) if x.numel() else (0,), x.shape[::-1] or (1,))
    return Call(lambda x, shape: x.reshape(shape), {"x": x, "shape": shape}, lambda x, shape: x.reshape(shape))


def permute(d: Draw) -> Call:
    x = d.tensor(*d.shape())
    axes = tuple((d.random.permutation(x.ndim) - d.choice(0, x.ndim)).tolist())
    return Call(lambda x, axes: x.permute(axes), {"x": x, "axes": axes}, lambda x, axes: x.permute(axes))


def transpose(d: Draw) -> Call:
    x = d.tensor(*d.shape(1))
    arguments = {"x": x, "dim0": d.size(-x.ndim, x.ndim - 1), "dim1": d.size(-x.ndim, x.ndim - 1)}
    return Call(_method("transpose"), arguments, _method("transpose"))


def getitem(d: Draw) -> Call:
    x = d.tensor(d.size(2, 5), d.size(2, 4))
    index = d.choice(
        0,
        -1,
        slice(1, None),
        slice(None, None, 2),
        (0, 1),
        (Ellipsis, None),
        None,
        np.array([0, 1, 1]),
        Tensor([1, 0]),
        (slice(0, 0), 1),
        x.data > 0,
    )
    return Call(lambda x, index: x[index], {"x": x, "index": index}, lambda x, index: x[index])


def astype(d: Draw) -> Call:
    dtype = d.choice(np.float32, np.float64, np.int64)
    arguments = {"x": d.tensor(*d.shape()), "dtype": dtype}
    return Call(_method("astype"), arguments, lambda x, dtype: x.to(getattr(_torch(), np.dtype(dtype).name)))


def to(d: Draw) -> Call:
    return Call(_method("to"), {"x": d.tensor(*d.shape()), "device": "cpu"}, lambda x, device: x.to(device))


def power(d: Draw) -> Call:
    x, exponent = d.tensor(*d.shape(), positive=True), d.choice(0, 1, 2, 0.5, -1, 3.0)
    return Call(lambda a, b: a**b, {"a": x, "b": exponent}, lambda a, b: a**b)


METHODS: dict[str, Callable[[Draw], Call]] = {
    "Tensor.__add__": _binary("add"),
    "Tensor.__sub__": _binary("sub"),
    "Tensor.__mul__": _binary("mul"),
    "Tensor.__truediv__": _binary("truediv"),
    **{f"Tensor.__{name}__": _binary(name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "Tensor.__pow__": power,
    "Tensor.__getitem__": getitem,
    "Tensor.reshape": reshape,
    "Tensor.permute": permute,
    "Tensor.transpose": transpose,
    "Tensor.astype": astype,
    "Tensor.to": to,
    **{f"Tensor.{name}": _reduction(name) for name in ("sum", "mean", "max")},
    "Tensor.argmax": argmax,
}


# --- layers, optimisers and data: what they are made of, and used once ------------------------------------------------


def _layer(kind: type, module: str, options: Callable[[Draw], dict[str, Any]], *shape: int) -> Callable[[Draw], Call]:
    """A layer in evaluation mode, of PyTorch's name, with PyTorch's weights replaced by its own."""

    def case(d: Draw) -> Call:
        d.dtype = np.float32  # that of the weights
        layers = []

        def by_ministn(input: Any, **options: Any) -> Tensor:
            layers.append(kind(**options).eval())
            return layers[0](input)

        def by_torch(input: Any, **options: Any) -> Any:
            layer = getattr(_torch().nn, module)(**options).eval()
            state = {name: _torch().tensor(np.array(value.data)) for name, value in layers[0].state_dict().items()}
            layer.load_state_dict(state)
            return layer(input)

        return Call(by_ministn, {"input": d.tensor(d.batch(), *shape), **options(d)}, by_torch)

    return case


def _convolution(d: Draw) -> dict[str, Any]:
    sizes = {"in_channels": 2, "out_channels": d.size(1, 3), "kernel_size": d.either(1, 3)}
    return {
        **sizes,
        "stride": d.either(1, 2),
        "padding": d.either(0, 2),
        "dilation": d.either(1, 2),
        "bias": d.choice(True, False),
    }


def _pool(d: Draw) -> dict[str, Any]:
    return {
        "kernel_size": d.either(2, 3),
        "stride": d.choice(None, d.size(1, 3)),
        "padding": d.size(0, 1),
        "ceil_mode": d.choice(True, False),
    }


def _optimizer(kind: str, options: Callable[[Draw], dict[str, Any]]) -> Callable[[Draw], Call]:
    """Two steps on one parameter, as PyTorch makes them."""

    def case(d: Draw) -> Call:
        gradients = [d.random.standard_normal((3, 2)).astype(d.dtype) for _ in range(2)]
        start = d.tensor(3, 2).data.astype(d.dtype)

        def stepped(library: Any, tensor: Callable[[np.ndarray], Any], options: dict[str, Any]) -> Any:
            weight = tensor(start.copy()).detach() * 1
            weight = type(weight)(weight.data, requires_grad=True) if library is optim else weight.requires_grad_()
            optimizer = getattr(library, kind)([weight], **options)
            for gradient in gradients:
                weight.grad = tensor(gradient)
                optimizer.step()
            return weight.detach()

        return Call(
            lambda **options: stepped(optim, Tensor, options),
            options(d),
            lambda **options: stepped(_torch().optim, lambda a: _torch().tensor(np.array(a, order="C")), options),
        )

    return case


def loader(d: Draw) -> Call:
    arguments = {
        "images": laid_out(d.random.integers(0, 256, (7, 4, 3)).astype(np.uint8), d.choice(*LAYOUTS)),
        "labels": laid_out(d.random.integers(0, 10, 7), d.choice(*LAYOUTS)),
        "batch_size": d.size(1, 9),
        "shuffle": d.choice(True, False),
        "seed": d.size(0, 9),
        "mean": 0.1,
        "std": 0.5,
        "drop_last": d.choice(True, False),
        "device": "cpu",
    }
    return Call(lambda **arguments: [batch for batch, _ in DataLoader(**arguments)], arguments)


def shift(d: Draw) -> Call:
    images = d.random.integers(0, 256, (3, 4, 5)).astype(np.uint8)
    return Call(lambda max_pixels: random_shift(max_pixels)(images, d.random), {"max_pixels": d.size(0, 5)})


MODULES: dict[str, Callable[[Draw], Call]] = {
    "nn.Linear": _layer(
        nn.Linear, "Linear", lambda d: {"in_features": 3, "out_features": d.size(), "bias": d.choice(True, False)}, 3
    ),
    "nn.Conv2d": _layer(nn.Conv2d, "Conv2d", _convolution, 2, 7, 6),
    "nn.ConvTranspose2d": _layer(nn.ConvTranspose2d, "ConvTranspose2d", _convolution, 2, 7, 6),
    "nn.MaxPool2d": _layer(nn.MaxPool2d, "MaxPool2d", _pool, 2, 7, 6),
    "nn.AvgPool2d": _layer(nn.AvgPool2d, "AvgPool2d", _pool, 2, 7, 6),
    "nn.BatchNorm1d": _layer(nn.BatchNorm1d, "BatchNorm1d", lambda d: {"num_features": 2, "eps": 1e-3}, 2, 5),
    "nn.BatchNorm2d": _layer(nn.BatchNorm2d, "BatchNorm2d", lambda d: {"num_features": 2, "momentum": 0.2}, 2, 5, 3),
    "nn.Dropout": _layer(nn.Dropout, "Dropout", lambda d: {"p": 0.5}, 3),
    "nn.Dropout2d": _layer(nn.Dropout2d, "Dropout2d", lambda d: {"p": 0.5}, 2, 3, 3),
    "nn.Flatten": _layer(nn.Flatten, "Flatten", lambda d: {"start_dim": 1, "end_dim": -1}, 2, 3, 3),
    "optim.SGD": _optimizer(
        "SGD",
        lambda d: {"lr": 0.1, "momentum": 0.9, "weight_decay": d.choice(0.0, 0.1), "nesterov": d.choice(True, False)},
    ),
    "optim.Adam": _optimizer(
        "Adam", lambda d: {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": d.choice(0, 0.1)}
    ),
    "optim.AdamW": _optimizer("AdamW", lambda d: {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}),
    "data.DataLoader": loader,
    "data.random_shift": shift,
}

CASES = {**FUNCTIONAL, **METHODS, **MODULES}

# --- faults ---------------------------------------------------------------------------------------------------------


def spoilt(d: Draw, value: Any) -> Any:
    """`value` with one thing about it changed, mostly for the worse."""
    anything = (
        None,
        "text",
        3,
        -1,
        1.5,
        float("nan"),
        [1, 2],
        (1, 2, 3),
        {},
        np.zeros((2, 3)),
        Tensor([1.0, 2.0]),
        b"",
        2**62,
        1j,
    )
    if isinstance(value, list):
        return d.choice([], value[0], [*value, None], [*value[:-1], spoilt(d, value[-1])])
    if isinstance(value, Tensor) and d.random.random() < 0.8:
        data = value.data
        with contextlib.suppress(ValueError, IndexError):
            axis = d.size(0, max(data.ndim - 1, 0))
            kind = d.choice("drop", "add", "repeat", "empty", "one", "cut", "turn", "dtype")
            if kind == "dtype":
                dtype = d.choice(np.int64, np.uint8, bool, np.float32, np.float64)
                return Tensor(data.astype(dtype), requires_grad=np.dtype(dtype).kind == "f")
            data = {
                "drop": lambda: data.take(0, axis),
                "add": lambda: np.expand_dims(data, axis),
                "repeat": lambda: np.repeat(data, 2, axis),
                "empty": lambda: data.take([], axis),
                "one": lambda: data.take([0], axis),
                "cut": lambda: np.delete(data, 0, axis),
                "turn": lambda: np.moveaxis(data, 0, -1),
            }[kind]()
            return Tensor(data, requires_grad=value.requires_grad)
    if isinstance(value, tuple) and value and d.random.random() < 0.7:
        at = d.size(0, len(value) - 1)
        return d.choice(value[:-1], (*value, 1), (*value[:at], spoilt(d, value[at]), *value[at + 1 :]))
    if isinstance(value, (int, float)) and not isinstance(value, bool) and d.random.random() < 0.7:
        return d.choice(0, -1, -2, value + 1, 7, 1.5, -0.5, np.int64(1), float("inf"), float("nan"))
    return d.choice(*anything)


# --- comparing ------------------------------------------------------------------------------------------------------


# What PyTorch refuses and ministn takes, by PyTorch's message.
WIDER = [
    "instances of 'Tensor' and '",  # lists of numbers as operands; anything, beside an empty Tensor
    ": 'Tensor' and 'list'",
    ": 'list' and 'Tensor'",
    "only integer tensors of a single element can be converted",
    "with a bool tensor is not supported",
    ": 'Tensor' and 'tuple'",
    "not implemented for 'Complex",  # NumPy orders complex numbers
    "Expected non-zero, positive output size. Got",  # affine_grid of an empty batch, or without channels
    "eps must be positive during training",
    "betas must be either both floats",  # 0 for 0.0
    "Could not convert tensor",  # a Tensor for a dtype: its own
    "overflow",  # a stride of 2^62: there is one window
    "not implemented for 'B",  # integers and bools become float32
    "not implemented for 'L",
    "'int' object has no attribute 'size'",  # numbers and lists as target or labels
    "'float' object has no attribute 'size'",
    "'list' object has no attribute 'long'",
    "Boolean inputs not supported",
    "Expected a floating point or complex tensor as input",
    "The shape of the mask",  # uint8 numbers elements, as in NumPy; PyTorch's mask of old
    "not differentiable with respect to argument 'running",  # a buffer that requires a gradient: none flows there
]


RIGHT = ["same", "refused", "wider", "unchecked"]


class Outcome(NamedTuple):
    kind: str  # one of RIGHT, or what is wrong
    detail: str = ""


def outcome(name: str, seed: int) -> Outcome:
    """What came of call number `seed` of `name`."""
    d = Draw([seed, *name.encode()])
    call = CASES[name](d)
    fault = ""
    if seed % 2:
        # The Tensor of a method stays one: without it the method would not be ministn's.
        fault = d.choice(*list(call.arguments)[name.startswith("Tensor.") :] or call.arguments)
        call.arguments[fault] = spoilt(d, call.arguments[fault])
    told = f"{name} {seed}: {_described(call.arguments)} (fault: {fault})"
    torchs = {key: _for_torch(value) for key, value in call.arguments.items()}  # before, since buffers are written to
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("error")
            result = call.function(**call.arguments)
            gradient = None
            if isinstance(result, Tensor) and result.requires_grad:
                gradient = d.random.standard_normal(result.shape).astype(result.dtype)
                result.backward(gradient)
    except (TypeError, ValueError) as error:
        message = str(error)
        if not fault:
            return Outcome("refused what is right", f"{told}\n    {type(error).__name__}: {message}")
        return (
            Outcome("refused")
            if _clear(message)
            else Outcome("unclear", f"{told}\n    {type(error).__name__}: {message}")
        )
    except IndexError as error:  # of x[...], as everywhere in Python
        return Outcome("refused" if name == "Tensor.__getitem__" else "another error", told + str(error))
    except Exception as error:
        return Outcome("another error", f"{told}\n    {type(error).__name__}: {error}")
    if call.torch is None:
        return Outcome("unchecked")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = call.torch(**torchs)
            if gradient is not None and expected.requires_grad:
                expected.backward(_torch().as_tensor(gradient, dtype=expected.dtype).reshape(expected.shape))
    except Exception as error:
        if any(reason in str(error) for reason in WIDER):
            return Outcome("wider")
        return Outcome("PyTorch refuses", f"{told}\n    {type(error).__name__}: {str(error)[:200]}")
    pairs = [("result", result, expected)]
    for key, value in call.arguments.items():
        for own, other in zip(*map(_as_list, (value, torchs[key])), strict=True):
            if isinstance(own, Tensor) and own.grad is not None:
                pairs.append((f"gradient of {key}", own.grad, other.grad))
    if name in ("Tensor.__eq__", "Tensor.__ne__") and isinstance(expected, bool):
        return Outcome("wider")  # no Tensor beside one: PyTorch says one False, ministn says it for each element
    for what, own, other in pairs:
        difference = _difference(own, other)
        if difference:
            return Outcome("differs", f"{told}\n    {what}: {difference}")
    return Outcome("same")


def _clear(message: str) -> bool:
    """Whether a message begins with a name and says what was expected and what came."""
    if message.startswith(("array is too big", "Maximum allowed dimension")):  # NumPy's own, of sizes like 2^62
        return True
    return (
        bool(message.split(":")[0].replace("_", "").replace(".", "").isalnum())
        and "expected" in message
        and "got" in message
    )


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _for_torch(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _torch().tensor(np.array(value.data, order="C")).requires_grad_(value.requires_grad)
    if isinstance(value, np.ndarray):
        return _torch().tensor(np.array(value.astype(value.dtype.newbyteorder("=")), order="C"))
    if isinstance(value, list):
        return [_for_torch(part) for part in value]
    return value


def _difference(own: Any, other: Any) -> str:
    if not isinstance(other, _torch().Tensor):
        return f"PyTorch's is {other!r}"
    if not isinstance(own, Tensor):
        return f"{own!r} is no Tensor"
    own, other = np.asarray(own.data), other.detach().numpy()
    if own.shape != other.shape:
        return f"shape {own.shape}, PyTorch's is {other.shape}"
    if own.dtype != other.dtype and own.size:
        return f"dtype {own.dtype}, PyTorch's is {other.dtype}"
    if own.dtype.kind != "f":
        return "" if np.array_equal(own, other) else f"{own} is not {other}"
    scale = max(float(np.abs(other[np.isfinite(other)]).max(initial=0)), 1.0)
    tolerance = (1e-4 if own.dtype == np.float32 else 1e-10) * scale  # sums of up to a few hundred products
    if not np.allclose(own, other, rtol=0, atol=tolerance, equal_nan=True):
        return f"{own.ravel()[:5]} is not {other.ravel()[:5]}, up to {np.nanmax(abs(own - other)):g}"
    return ""


def _described(arguments: dict[str, Any]) -> str:
    def one(value: Any) -> str:
        if isinstance(value, (Tensor, np.ndarray)):
            data = value.data if isinstance(value, Tensor) else value
            return f"{type(value).__name__}{data.shape} {data.dtype} strides {data.strides}"
        return f"[{', '.join(map(one, value))}]" if isinstance(value, list) else repr(value)

    return ", ".join(f"{key}={one(value)}" for key, value in arguments.items())


def fuzz(names: list[str], calls: int, seed: int = 0) -> dict[str, dict[str, Any]]:
    """So many calls of each of the functions, with seeds from `seed` on.

    Returns
    -------
    dict
        For each name the number of calls of each kind, and under ``"wrong"`` what was told of those that are none of
        `RIGHT`.
    """
    found = {}
    for name in names:
        outcomes = [outcome(name, number) for number in range(seed, seed + calls)]
        counts = collections.Counter(one.kind for one in outcomes)
        wrong = [f"{one.kind}: {one.detail}" for one in outcomes if one.kind not in RIGHT]
        found[name] = {**{kind: counts[kind] for kind in RIGHT}, "wrong": wrong}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=300, help="of each function")
    parser.add_argument("--seed", type=int, default=0, help="of the first call")
    parser.add_argument("--only", nargs="*", choices=list(CASES), help="functions; all by default")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)  # before the work
    path = options.out / "reliability-shapes.json"
    each = json.loads(path.read_text())["each"] if options.only and path.exists() else {}  # then the others stay
    for name in options.only or CASES:
        each |= fuzz([name], options.calls, options.seed)
        print(name, *(f"{kind} {each[name][kind]}" for kind in RIGHT), "wrong", len(each[name]["wrong"]), flush=True)
        for told in each[name]["wrong"][:5]:
            print("  " + told)
        total = {kind: sum(result[kind] for result in each.values()) for kind in RIGHT}
        total |= {"functions": len(each), "wrong": sum(len(result["wrong"]) for result in each.values())}
        about = {"environment": records.environment(), **records.code_version()}  # of the last run
        text = json.dumps({**total, **about, "each": dict(sorted(each.items()))}, indent=1) + "\n"
        records.write_atomically(path, text.encode())
    print(total)


if __name__ == "__main__":
    main()
