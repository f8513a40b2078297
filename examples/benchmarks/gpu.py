"""ministn's CUDA kernels and training on a GPU, beside PyTorch's on the same GPU.

    python examples/benchmarks/gpu.py            # some minutes; needs CuPy, and PyTorch with CUDA to compare with
    python examples/benchmarks/gpu.py --quick    # does it run?

Kernels are timed forward and backward through the public functions, as a user calls them, so at small sizes a time is
that of the launches. A call of a case does the work many times and then waits for the device once. The bandwidth beside
a time counts what must be read and written at least, every array once; the device's own is that of a copy. Training is
whole steps on MNIST that lies on the device: gather, forward, loss, backward, update.

Prints a table and writes gpu.json to the folder.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import kernels
import side_by_side
import train_step
from side_by_side import MINISTN, PYTORCH, Case, Result, Work

DEVICE_COPY = 2**28  # bytes
REPEATS = 20  # of the work, between two times that the host waits for the device


def repeated(once: Callable[[], Any], wait: Callable[[], Any]) -> Work:
    """The work `REPEATS` times and one wait for the device; the result of the last time."""

    def work() -> Any:
        for _ in range(REPEATS):
            result = once()
        wait()
        return result

    return work


# --- kernels ------------------------------------------------------------------------------------------------------


def ministn_gradients(operation: Callable, arrays: Callable[[], list], device: str = "gpu") -> Work:
    """Forward and backward of ``operation(F, *tensors)`` on the device; returns the output and all gradients."""
    import ministn.functional as F
    from ministn import Tensor, backend

    tensors = [Tensor(backend.to_device(array, device), requires_grad=True) for array in arrays()]
    gradient = backend.to_device(kernels.random_like(operation(F, *tensors).shape), device)

    def once() -> list:
        for tensor in tensors:
            tensor.grad = None
        output = operation(F, *tensors)
        output.backward(gradient)
        return [output.data, *(tensor.grad.data for tensor in tensors)]

    work = repeated(once, backend.synchronize)
    return lambda: [backend.to_device(array, "cpu") for array in work()]


def torch_gradients(operation: Callable, arrays: Callable[[], list]) -> Work:
    """As `ministn_gradients`."""
    import torch
    import torch.nn.functional as F

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 on both sides
    torch.backends.cudnn.benchmark = True
    tensors = [torch.from_numpy(array).cuda().requires_grad_() for array in arrays()]
    gradient = torch.from_numpy(kernels.random_like(operation(F, *tensors).shape)).cuda()

    def once() -> list:
        for tensor in tensors:
            tensor.grad = None
        output = operation(F, *tensors)
        output.backward(gradient)
        return [output.detach(), *(tensor.grad for tensor in tensors)]

    work = repeated(once, torch.cuda.synchronize)
    return lambda: [tensor.cpu().numpy() for tensor in work()]


def gradient_case(name: str, operation: Callable, arrays: Callable[[], list], flop: float = 0.0) -> Case:
    sides: dict[str, Callable[[], Work]] = {MINISTN: functools.partial(ministn_gradients, operation, arrays)}
    if torch_has_cuda():
        sides[PYTORCH] = functools.partial(torch_gradients, operation, arrays)
    # Each input is read forward and backward and its gradient is written; the output is written, its gradient read.
    inputs = sum(array.nbytes for array in arrays())
    return Case(name, sides, flop=flop, facts={"kind": "kernel", "input_bytes": inputs})


def convolve(F: Any, images: Any, weight: Any, bias: Any, padding: int = 0) -> Any:
    return F.conv2d(images, weight, bias, padding=padding)


def kernel_cases() -> list[Case]:
    cases = []
    for channels, filters, kernel, size, padding in [
        *[(1, 8, 7, 28, 0), (8, 10, 5, 11, 0), (1, 10, 5, 28, 0), (10, 20, 5, 12, 0)],  # the tutorial's network
        *[(32, 64, 7, 60, 0), (32, 32, 3, 32, 1)],
    ]:
        shapes = (64, channels, size, size), (filters, channels, kernel, kernel), (filters,)
        out = size + 2 * padding - kernel + 1
        flop = 3 * 2.0 * 64 * filters * channels * kernel**2 * out**2  # forward and two gradients
        operation = functools.partial(convolve, padding=padding)
        name = f"conv {channels}->{filters} k{kernel} on {size}x{size}"
        cases.append(gradient_case(name, operation, functools.partial(kernels.random_arrays, *shapes), flop))
    for shape in [(64, 1, 28, 28), (64, 32, 64, 64), (16, 3, 224, 224)]:
        arrays = functools.partial(kernels.images_and_transforms, shape)
        cases.append(gradient_case(f"spatial transform {shape}", kernels.warp, arrays))
        for mode, padding_mode in [("bilinear", "zeros"), ("nearest", "border"), ("bicubic", "reflection")]:
            operation = functools.partial(kernels.sample, mode=mode, padding_mode=padding_mode)
            arrays = functools.partial(kernels.images_and_points, shape)
            cases.append(gradient_case(f"grid sample {mode}, {padding_mode} {shape}", operation, arrays))
    for shape, size in [((64, 20, 24, 24), 2), ((64, 32, 60, 60), 5)]:
        arrays = functools.partial(kernels.random_arrays, shape)
        for name, pool in (("max", kernels.max_pool), ("avg", kernels.avg_pool)):
            operation = functools.partial(pool, kernel_size=size)
            cases.append(gradient_case(f"{name} pool {size}x{size} {shape}", operation, arrays))
    shape = (64, 32, 28, 28)
    arrays = functools.partial(kernels.random_arrays, shape, shape[1:2], shape[1:2])
    cases.append(gradient_case(f"batch norm {shape}", kernels.batch_norm, arrays))
    for features, units in [(320, 50), (784, 256)]:
        arrays = functools.partial(kernels.random_arrays, (64, features), (units, features), (units,))
        cases.append(gradient_case(f"dense {features}->{units}", kernels.dense, arrays))
    return cases


# --- training -----------------------------------------------------------------------------------------------------


def ministn_training(batch_size: int, source: train_step.Source, device: str = "gpu", capture: bool = False) -> Work:
    """`REPEATS` steps of training the tutorial's network; with `capture` as a CUDA graph."""
    from ministn import backend, data, manual_seed, models, optim, training

    manual_seed(0)
    model = models.MnistSTN(dropout=train_step.DROPOUT).to(device)
    dataset = train_step.load_data(source)
    images, labels = dataset.train_images, dataset.train_labels
    scaling = {"mean": dataset.mean, "std": dataset.std}
    loader = data.DataLoader(images, labels, batch_size, shuffle=True, device=device, **scaling)
    optimizer = optim.SGD(model.parameters(), lr=train_step.LEARNING_RATE)
    trainer = training.Trainer(model, optimizer, loader, test_loader=None, capture=capture)

    def endless() -> Any:
        while True:
            yield from loader

    batches = endless()
    return repeated(lambda: trainer.train_step(*next(batches)), backend.synchronize)


def torch_training(batch_size: int, source: train_step.Source) -> Work:
    """As `ministn_training`, with the whole data set as one normalised tensor on the device."""
    import torch
    import torch.nn.functional as F
    import torch_stn

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    model = torch_stn.TorchSTN(dropout=train_step.DROPOUT).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=train_step.LEARNING_RATE)
    dataset = train_step.load_data(source)
    images = torch.from_numpy(dataset.train_images)[:, None].cuda().float().div_(255)
    images = images.sub_(dataset.mean).div_(dataset.std)
    labels = torch.from_numpy(dataset.train_labels).cuda()
    loss_sum, correct = torch.zeros((), device="cuda"), torch.zeros((), device="cuda", dtype=torch.int64)

    def endless() -> Any:
        while True:
            for chosen in torch.randperm(len(images), device="cuda").split(batch_size):
                yield images[chosen], labels[chosen]

    batches = endless()

    def once() -> None:
        x, y = next(batches)
        optimizer.zero_grad()
        log_probabilities = model(x)
        loss = F.nll_loss(log_probabilities, y)
        loss.backward()
        optimizer.step()
        loss_sum.add_(loss.detach() * len(y))
        correct.add_((log_probabilities.argmax(dim=1) == y).sum())

    return repeated(once, torch.cuda.synchronize)


def training_case(batch_size: int, source: train_step.Source, capture: bool = False) -> Case:
    ours = functools.partial(ministn_training, batch_size, source, capture=capture)
    sides: dict[str, Callable[[], Work]] = {MINISTN: ours}
    if torch_has_cuda():
        sides[PYTORCH] = functools.partial(torch_training, batch_size, source)
    name = f"training stn, batch {batch_size}{', as a graph' * capture}"
    return Case(name, sides, facts={"kind": "training", "batch": batch_size})


# --- the device ---------------------------------------------------------------------------------------------------


@functools.cache
def torch_has_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def device_facts() -> dict[str, Any]:
    """Name and versions, and the bandwidth of a copy in bytes read and written per second."""
    import cupy

    from ministn import records

    properties = cupy.cuda.runtime.getDeviceProperties(0)
    source = cupy.zeros(DEVICE_COPY, cupy.uint8)
    target, seconds = cupy.empty_like(source), []
    for _ in range(20):
        cupy.cuda.Device().synchronize()
        start = time.perf_counter()
        cupy.copyto(target, source)
        cupy.cuda.Device().synchronize()
        seconds.append(time.perf_counter() - start)
    return {
        **records.environment(),
        "torch": importlib.metadata.version("torch") if torch_has_cuda() else None,
        "device": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "cupy": cupy.__version__,
        "cuda_runtime": cupy.cuda.runtime.runtimeGetVersion(),
        "cuda_driver": cupy.cuda.runtime.driverGetVersion(),
        "copy_bytes_per_second": 2 * DEVICE_COPY / statistics.median(seconds[5:]),
    }


def need_device() -> None:
    """Leave with one line if there is nothing to measure."""
    from ministn import backend

    try:
        backend.cupy_with_gpu()
    except backend.DeviceError as error:
        sys.exit(str(error))


# --- what comes out -----------------------------------------------------------------------------------------------


def row(result: Result, setting: dict[str, Any]) -> list[str]:
    seconds = {side: result.time(side).median / REPEATS for side in result.seconds}
    facts, ours = result.case.facts, seconds[MINISTN]
    achieved = ""
    if facts["kind"] == "training":
        achieved = f"{facts['batch'] / ours:,.0f} images/s"
    elif result.case.flop:
        achieved = f"{result.case.flop / ours / 1e9:,.0f} GFLOP/s"
    else:
        bandwidth = 3 * facts["input_bytes"] / ours
        achieved = f"{bandwidth / 1e9:,.0f} GB/s ({100 * bandwidth / setting['copy_bytes_per_second']:.0f} %)"
    peer = ["", ""]
    if PYTORCH in seconds:
        peer = [side_by_side.digits(1e3 * seconds[PYTORCH]), side_by_side.times(result.ratio())]
    return [result.case.name, side_by_side.digits(1e3 * ours), *peer, achieved]


def main(argv: list[str] | None = None) -> None:
    parser = side_by_side.parser(__doc__)
    parser.set_defaults(threads=[1])
    args = parser.parse_args(argv)
    need_device()
    source: train_step.Source = train_step.QUICK_DIGITS if args.quick else None
    with side_by_side.Worker(1) as worker:
        setting = {"command": "gpu.py", "rounds": args.rounds, "repeats": REPEATS, **worker.ask(device_facts)}
    training = (training_case(batch, source, capture) for batch in (64, 256, 1024) for capture in (False, True))
    cases = [*kernel_cases(), *training]
    results = side_by_side.run(args, cases, "gpu")
    print(f"{setting['device']}, a copy {setting['copy_bytes_per_second'] / 1e9:,.0f} GB/s, CuPy {setting['cupy']}")
    header = ["case", "ministn ms", "PyTorch ms", "times faster", "achieved"]
    print(side_by_side.table(header, [row(result, setting) for result in results]))
    rows = [result.as_json() for result in results]
    side_by_side.write_json(args.folder / "gpu.json", {"setting": setting, "results": rows})


if __name__ == "__main__":
    main()
