"""The judge of the exercises: is a backward right, and if not, which entries are wrong, and how.

The verdict is that of `ministn.gradcheck`. If it fails, every entry of the input is moved a little to either side,
which measures what its gradient should have been.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

import numpy as np

from ministn import Function, GradcheckError, gradcheck, tensor


def judge(function: type[Function], inputs: list[np.ndarray]) -> None:
    """Print the report on an exercise, or with ``--solution`` on its solution; exit with 0 if it is solved, else 1."""
    right, text = report(solution(function) if "--solution" in sys.argv[1:] else function, inputs)
    print(text)
    sys.exit(0 if right else 1)


def solution(function: type[Function]) -> type[Function]:
    """The exercise with the backward of the file of its name in solutions/."""
    module = importlib.import_module(f"solutions.{Path(inspect.getfile(function)).stem}")
    return type(function.__name__, (function,), {"backward": module.backward})


def report(function: type[Function], inputs: list[np.ndarray]) -> tuple[bool, str]:
    """Whether all gradients are right, and a text with a paragraph for each input."""
    names = list(inspect.signature(function.forward).parameters)[1:]
    node, given = function(), [array.copy() for array in inputs]
    w = np.random.default_rng(1).normal(size=node.forward(*given).shape)  # plays dL/d output
    grad_output = w.copy()
    try:
        gradients = node.input_gradients(grad_output)
    except NotImplementedError:
        return False, f"{function.__name__}: backward is not written yet."
    if len(gradients) != len(inputs):
        return (
            False,
            f"{function.__name__}: expected a tuple, the gradients of {', '.join(names)}, got {len(gradients)}.",
        )
    for name, before, after in zip(["grad_output", *names], [w, *inputs], [grad_output, *given], strict=True):
        if not np.array_equal(before, after):
            return False, f"{function.__name__}: backward writes into {name}, which others use too: make a new array."
    found = [_fault(function, inputs, index, gradients[index], w, name) for index, name in enumerate(names)]
    right = [f"right, in all {array.size} entries." for array in inputs]
    lines = [f"{function.__name__}, gradient of {n}: {f or r}" for n, f, r in zip(names, found, right, strict=True)]
    return not any(found), "\n".join(lines)


def _fault(function, inputs, index, got, w, name):
    """What is wrong with one gradient; nothing if it is right."""
    if got is None:
        return "not written yet, backward returns None."
    got, x = np.asarray(got), inputs[index]
    if got.shape != x.shape:
        hint = " One number for each entry: the sum over all that it has a part in." if got.ndim > x.ndim else ""
        return f"expected the shape of {name}, {x.shape}, got {got.shape}.{hint}"
    if got.dtype != x.dtype:
        return f"expected an array of {x.dtype}, got {got.dtype}: where does grad_output enter?"
    try:
        gradcheck(function.apply, [tensor(array, requires_grad=i == index) for i, array in enumerate(inputs)])
    except GradcheckError:
        return _differences(function, inputs, index, got, w, name)
    return ""


def _differences(function, inputs, index, got, w, name):
    expected = _measured(function, inputs, index, w)
    small = 1e-7 * np.abs(expected).max()  # rounding in the measurement is a hundred times less
    off = np.abs(got - expected)
    wrong = ~(off <= small)  # NaN is wrong, too
    worst = tuple(map(int, np.unravel_index(off.argmax(), off.shape)))
    lines = [
        f"not right yet, {wrong.sum()} of {off.size} entries differ. The furthest off:",
        f"    {name}{list(worst)}: expected {expected[worst]:.6g}, got {got[worst]:.6g}",
    ]
    node = function()
    node.forward(*inputs)
    if np.array_equal(node.input_gradients(2 * w)[index], got):
        lines.append("It is the same for every grad_output: where does the chain rule multiply by that?")
    elif (factors := _factors(expected, got)) is not None:
        lines.append(f"{_times(name, factors)} it would be right: is a factor or a sign missing?")
    elif (swap := _exchange(expected, got)) is not None:
        axis, factors = swap
        lines.append(
            f"With 0 and 1 exchanged along axis {axis} it would be right"
            f"{'' if np.allclose(factors, 1) else ' but for factors'}: are x and y mixed up?"
        )
    zeros = int(np.sum(wrong & (np.abs(expected) <= small)))
    if zeros:
        lines.append(f"{zeros} of them should be 0: the output does not change when these entries do.")
    return "\n    ".join(lines)


def _measured(function, inputs, index, w, step=1e-5):
    """The gradient of sum(w * output), entry by entry, as a central difference."""
    slopes = np.empty_like(inputs[index])
    for place in np.ndindex(slopes.shape):
        sides = []
        for sign in (1, -1):
            moved = [array.copy() for array in inputs]
            moved[index][place] += sign * step
            sides.append(function().forward(*moved))
        slopes[place] = np.sum(w * (sides[0] - sides[1])) / (2 * step)
    return slopes


def _factors(expected, got):
    """What `got` has to be multiplied by, a number for each index of a last axis of 2 or 3; None if nothing helps."""
    columns = expected.shape[-1] if expected.shape[-1] <= 3 else 1
    e, g = expected.reshape(-1, columns), got.reshape(-1, columns)
    if not np.any(g, axis=0).all():
        return None
    factors = np.sum(e * g, axis=0) / np.sum(g * g, axis=0)  # least squares
    return factors if np.allclose(factors * g, e, rtol=0, atol=1e-7 * np.abs(e).max()) else None


def _times(name, factors):
    if np.allclose(factors, factors[0], rtol=1e-6):
        return f"Times {factors[0]:.4g}"
    wanted = [(k, factor) for k, factor in enumerate(factors) if not np.isclose(factor, 1, rtol=1e-6)]
    return "With " + ", ".join(f"{name}[..., {k}] times {factor:.4g}" for k, factor in wanted)


def _exchange(expected, got):
    """The axis along which two entries have changed places, and the factors that are missing besides."""
    for axis in [axis for axis, size in enumerate(got.shape) if size in (2, 3)]:
        factors = _factors(expected, np.take(got, [1, 0, 2][: got.shape[axis]], axis))
        if factors is not None:
            return axis, factors
    return None
