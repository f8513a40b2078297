"""Each kernel of ministn against PyTorch's: convolutions, sampling, pooling, batch norm, dense layers.

    python examples/benchmarks/kernels.py                     # everything: a quarter of an hour
    python examples/benchmarks/kernels.py --only "8->10 k5"   # the cases with this in their name

The three passes of a convolution (forward, gradient for the input, gradients for weight and bias) are timed one by one
and stand beside what the processor could do at most, its FMA peak. Everything else is timed forward and backward
through the public functions, with the automatic differentiation on both sides. ministn has its images in batch-last
memory, as between the layers of a network; the column NCHW says what it costs if they come as NumPy makes them.

Prints a table and writes kernels.json and kernels.png to the folder.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import side_by_side
from side_by_side import MINISTN, PYTORCH, Case, Result, Work

MINISTN_NCHW = "ministn, NCHW"
BATCH = 64

# What is wanted of a row with two threads: how many times faster than PyTorch at least, and the aim, which for the
# network's own convolutions is a part of the FMA peak.
PART_OF_PEAK = 0.6


# --- convolutions, pass by pass -----------------------------------------------------------------------------------

PASSES = {"forward": None, "d input": (True, False, False), "d weight, bias": (False, True, True)}


def convolution_arrays(channels: int, filters: int, kernel: int, size: int, padding: int, batch: int) -> tuple:
    """Images, weights, a bias, and a gradient for the output."""
    import numpy as np

    random = np.random.default_rng(0)
    out = size + 2 * padding - kernel + 1
    shapes = [
        (batch, channels, size, size),
        (filters, channels, kernel, kernel),
        (filters,),
        (batch, filters, out, out),
    ]
    return tuple(random.standard_normal(shape, np.float32) for shape in shapes)


def ministn_convolution(which: str, geometry: tuple[int, ...], batch_last: bool = True) -> Work:
    from ministn.kernels.conv2d import cpu

    x, weight, bias, grad_output = convolution_arrays(*geometry)
    if batch_last:
        x, grad_output = in_batch_last_memory(x), in_batch_last_memory(grad_output)
    stride, padding, dilation = (1, 1), (geometry[4],) * 2, (1, 1)
    needs_grad = PASSES[which]
    if needs_grad is None:
        return lambda: [cpu.forward(x, weight, bias, stride, padding, dilation)]
    return lambda: [
        gradient
        for gradient in cpu.backward(grad_output, x, weight, stride, padding, dilation, needs_grad)
        if gradient is not None
    ]


def torch_convolution(which: str, geometry: tuple[int, ...]) -> Work:
    torch = side_by_side.import_torch()
    x, weight, bias, grad_output = map(torch.from_numpy, convolution_arrays(*geometry))
    padding = (geometry[4],) * 2
    needs_grad = PASSES[which]
    if needs_grad is None:
        return lambda: [torch.nn.functional.conv2d(x, weight, bias, padding=padding)]
    plain = ((1, 1), padding, (1, 1), False, (0, 0), 1)  # stride, padding, dilation, not transposed, one group
    return lambda: [
        gradient
        for gradient in torch.ops.aten.convolution_backward(grad_output, x, weight, bias.shape, *plain, needs_grad)
        if gradient is not None
    ]


def convolution_cases(
    channels: int, filters: int, kernel: int, size: int, padding: int = 0, batch: int = BATCH, **facts: Any
) -> list[Case]:
    geometry = (channels, filters, kernel, size, padding, batch)
    out = size + 2 * padding - kernel + 1
    name = f"conv {channels}->{filters} k{kernel}{f' p{padding}' if padding else ''} on {size}x{size}"
    return [
        Case(
            f"{name}, {which}",
            {
                MINISTN: functools.partial(ministn_convolution, which, geometry),
                MINISTN_NCHW: functools.partial(ministn_convolution, which, geometry, batch_last=False),
                PYTORCH: functools.partial(torch_convolution, which, geometry),
            },
            flop=2.0 * batch * filters * channels * kernel**2 * out**2,
            facts=facts,
        )
        for which in PASSES
    ]


# --- everything else: forward and backward of one line that both libraries understand -----------------------------


def in_batch_last_memory(array: Any) -> Any:
    """The same array with its first axis fastest in memory."""
    import numpy as np

    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 0, -1)), -1, 0)


def ministn_gradients(operation: Callable, arrays: Callable[[], list], batch_last: bool = True) -> Work:
    """Forward and backward of ``operation(F, *tensors)``: returns the output and the gradients of all tensors.

    With `batch_last`, images (arrays with four axes and channels second) have that memory, and so has the gradient.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits

    import ministn.functional as F
    from ministn import Tensor

    threadpool_limits(limits=1, user_api="blas")  # as Trainer.fit sets them
    inputs = arrays()
    if batch_last:
        inputs[0] = in_batch_last_memory(inputs[0])
    tensors = [Tensor(array, requires_grad=True) for array in inputs]
    grad_output = random_like(operation(F, *tensors).shape)
    gradient = Tensor(in_batch_last_memory(grad_output) if batch_last else np.ascontiguousarray(grad_output))

    def work() -> list:
        for tensor in tensors:
            tensor.grad = None
        output = operation(F, *tensors)
        output.backward(gradient)
        return [output.data, *(tensor.grad.data for tensor in tensors)]

    return work


def torch_gradients(operation: Callable, arrays: Callable[[], list]) -> Work:
    """As `ministn_gradients`."""
    torch = side_by_side.import_torch()
    import torch.nn.functional as F

    tensors = [torch.from_numpy(array).requires_grad_() for array in arrays()]
    gradient = torch.from_numpy(random_like(operation(F, *tensors).shape))

    def work() -> list:
        for tensor in tensors:
            tensor.grad = None
        output = operation(F, *tensors)
        output.backward(gradient)
        return [output.detach(), *(tensor.grad for tensor in tensors)]

    return work


def gradient_case(name: str, operation: Callable, arrays: Callable[[], list], **facts: Any) -> Case:
    return Case(
        f"{name}, forward + backward",
        {
            MINISTN: functools.partial(ministn_gradients, operation, arrays),
            MINISTN_NCHW: functools.partial(ministn_gradients, operation, arrays, batch_last=False),
            PYTORCH: functools.partial(torch_gradients, operation, arrays),
        },
        facts=facts,
    )


def random_like(shape: tuple[int, ...], seed: int = 1) -> Any:
    import numpy as np

    return np.random.default_rng(seed).standard_normal(tuple(shape), np.float32)


def random_arrays(*shapes: tuple[int, ...]) -> list:
    return [random_like(shape, seed) for seed, shape in enumerate(shapes)]


def images_and_transforms(shape: tuple[int, ...]) -> list:
    """Images, and for each an affine transform that rotates, scales, shears and shifts a little."""
    import numpy as np

    identity = np.eye(2, 3, dtype=np.float32)
    return [random_like(shape), identity + np.float32(0.1) * random_like((shape[0], 2, 3), seed=2)]


def images_and_points(shape: tuple[int, ...]) -> list:
    """Images, and where to sample them: the transforms of `images_and_transforms`, so that some points lie outside."""
    import numpy as np

    images, theta = images_and_transforms(shape)
    y, x = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in shape[2:]), indexing="ij")
    targets = np.stack([x, y, np.ones_like(x)], axis=-1)
    return [images, np.ascontiguousarray(np.einsum("nrk,ijk->nijr", theta, targets))]


def warp(F: Any, images: Any, theta: Any) -> Any:
    """ministn has one function for it; in PyTorch it takes two."""
    if hasattr(F, "spatial_transform"):
        return F.spatial_transform(images, theta)
    return warp_in_two_steps(F, images, theta)


def warp_in_two_steps(F: Any, images: Any, theta: Any) -> Any:
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def sample(F: Any, images: Any, points: Any, **options: str) -> Any:
    return F.grid_sample(images, points, align_corners=False, **options)


def max_pool(F: Any, images: Any, **options: int) -> Any:
    return F.max_pool2d(images, **options)


def avg_pool(F: Any, images: Any, **options: int) -> Any:
    return F.avg_pool2d(images, **options)


def batch_norm(F: Any, images: Any, weight: Any, bias: Any) -> Any:
    mean, variance = weight.detach() * 0, weight.detach() * 0 + 1  # new running averages every time, on both sides
    return F.batch_norm(images, mean, variance, weight, bias, training=True)


def dense(F: Any, features: Any, weight: Any, bias: Any) -> Any:
    return F.linear(features, weight, bias)


# --- the cases ----------------------------------------------------------------------------------------------------


def all_cases() -> list[Case]:
    cases: list[Case] = []
    for channels, filters, kernel, size in [(1, 8, 7, 28), (8, 10, 5, 11), (1, 10, 5, 28), (10, 20, 5, 12)]:
        cases += convolution_cases(channels, filters, kernel, size, least=1.5, part_of_peak=PART_OF_PEAK)
    for channels, filters, kernel in [(1, 32, 9), (32, 64, 7)]:
        for size in (28, 42, 60):
            cases += convolution_cases(channels, filters, kernel, size, least=1, aim=2)
    cases += convolution_cases(32, 32, 3, 32, padding=1, least=1, aim=2)

    for shape in [(64, 1, 28, 28), (64, 1, 60, 60), (64, 32, 64, 64), (16, 3, 224, 224)]:
        goals = {"least": 2, "aim": 4} if shape == (64, 1, 28, 28) else {"least": 1, "aim": 2}
        arrays = functools.partial(images_and_transforms, shape)
        cases.append(gradient_case(f"spatial transform {shape}", warp, arrays, **goals))
        cases.append(gradient_case(f"affine grid, then grid sample {shape}", warp_in_two_steps, arrays, **goals))

    goals = {"least": 1, "aim": 1.5}
    for shape in [(64, 1, 28, 28), (64, 16, 32, 32)]:
        for mode in ("bilinear", "nearest", "bicubic"):
            for padding_mode in ("zeros", "border", "reflection"):
                operation = functools.partial(sample, mode=mode, padding_mode=padding_mode)
                arrays = functools.partial(images_and_points, shape)
                cases.append(gradient_case(f"grid sample {mode}, {padding_mode} {shape}", operation, arrays, **goals))
    for shape, options in [
        ((64, 20, 24, 24), {"kernel_size": 2}),
        ((64, 32, 60, 60), {"kernel_size": 5}),
        ((64, 32, 60, 60), {"kernel_size": 5, "stride": 2, "padding": 2}),
    ]:
        size = options["kernel_size"]
        name = f"{size}x{size}{' stride 2' if 'stride' in options else ''} {shape}"
        arrays = functools.partial(random_arrays, shape)
        cases.append(gradient_case(f"max pool {name}", functools.partial(max_pool, **options), arrays, **goals))
        cases.append(gradient_case(f"avg pool {name}", functools.partial(avg_pool, **options), arrays, **goals))
    for shape in [(64, 10, 12, 12), (64, 32, 28, 28)]:
        arrays = functools.partial(random_arrays, shape, shape[1:2], shape[1:2])
        cases.append(gradient_case(f"batch norm {shape}", batch_norm, arrays, **goals))
    for features, units in [(90, 32), (32, 6), (320, 50), (50, 10), (784, 256)]:
        arrays = functools.partial(random_arrays, (BATCH, features), (units, features), (units,))
        cases.append(gradient_case(f"dense {features}->{units}", dense, arrays, **goals))
    return cases


# --- what comes out -----------------------------------------------------------------------------------------------


def goals(result: Result, setting: dict[str, Any]) -> tuple[float, float] | None:
    """How many times faster than PyTorch, at least and as the aim; they are for two threads."""
    facts = result.case.facts
    if result.threads != 2:
        return None
    if "aim" in facts:
        return facts["least"], facts["aim"]
    aim = facts["part_of_peak"] * peak(result, setting) / result.gflops(PYTORCH)
    return facts["least"], aim


def peak(result: Result, setting: dict[str, Any]) -> float:
    return setting["fma_peak_gflops"][str(result.threads)]


def results_table(results: list[Result], setting: dict[str, Any]) -> str:
    rows = []
    for result in results:
        speeds = [""] * 2
        if result.case.flop:
            speeds = [
                f"{result.gflops(side):.1f} ({100 * result.gflops(side) / peak(result, setting):.0f} %)"
                for side in (MINISTN, PYTORCH)
            ]
        least, aim, reached = side_by_side.verdict(result.ratio().median, goals(result, setting))
        if "part_of_peak" in result.case.facts and aim:
            aim = f"{100 * result.case.facts['part_of_peak']:.0f} % of peak"
        rows.append(
            [
                result.case.name,
                str(result.threads),
                *(side_by_side.digits(1e3 * result.time(side).median) for side in (MINISTN, MINISTN_NCHW, PYTORCH)),
                side_by_side.times(result.ratio()),
                *speeds,
                *(least, aim, reached),
            ]
        )
    header = ["kernel", "threads", "ministn ms", "NCHW ms", "PyTorch ms", "times faster"]
    header += ["ministn GFLOP/s", "PyTorch GFLOP/s", "at least", "aim", "reached"]
    return side_by_side.table(header, rows)


def picture(results: list[Result], setting: dict[str, Any]) -> Any:
    """How many times faster than PyTorch, with the most threads there are."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    most = max(result.threads for result in results)
    results = [result for result in results if result.threads == most]
    figure = Figure(figsize=(9, 1.5 + 0.2 * len(results)), layout="constrained", dpi=120)
    axes = figure.subplots()
    for row, result in enumerate(results):
        ratio, wanted = result.ratio(), goals(result, setting)
        error = [[ratio.median - ratio.low], [ratio.high - ratio.median]]
        colour = side_by_side.COLOURS[MINISTN if ratio.median >= 1 else PYTORCH]
        axes.barh(row, ratio.median - 1, left=1, xerr=error, color=colour, ecolor="black", capsize=1.5, height=0.7)
        if wanted is not None:
            first = row == 0
            axes.plot([wanted[0]] * 2, [row - 0.45, row + 0.45], "k-", lw=1.5, label="at least" if first else None)
            axes.plot([wanted[1]] * 2, [row - 0.45, row + 0.45], "k:", lw=1.5, label="aim" if first else None)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xticks([ticks for ticks in (0.25, 0.5, 1, 2, 4, 8, 16, 32) if axes.get_xlim()[0] <= ticks])
    axes.minorticks_off()
    axes.axvline(1, color="black", lw=0.8)
    axes.set_yticks(range(len(results)), [result.case.name for result in results], fontsize="x-small")
    axes.set_ylim(len(results) - 0.4, -0.6)
    axes.set_xlabel(f"times faster than PyTorch, threads: {most}\n{setting['processor']}")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def main(argv: list[str] | None = None) -> None:
    args = side_by_side.parser(__doc__).parse_args(argv)
    side_by_side.need_torch()
    environment = side_by_side.environment(args.threads, fma=True)
    setting = {"command": "kernels.py", "rounds": args.rounds, "batch": BATCH, **environment}
    print(side_by_side.describe(setting))
    results = side_by_side.run(args, all_cases(), "kernels")
    print(results_table(results, setting))
    rows = [{**result.as_json(), "goals": goals(result, setting)} for result in results]
    side_by_side.write_json(args.folder / "kernels.json", {"setting": setting, "results": rows})
    side_by_side.write_picture(args.folder / "kernels.png", picture(results, setting))


if __name__ == "__main__":
    main()
