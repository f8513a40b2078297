"""examples/exercises: the solutions are right, nothing is given away, and the judge finds and names the usual slips."""

import re
import subprocess
import sys
from pathlib import Path

import affine_grid
import grid_sample
import judge
import max_pool2d
import numpy as np
import pytest
import relu

import ministn.functional as F
from ministn import tensor

FOLDER = Path(judge.__file__).parent
# Each exercise beside ministn's own kernel, for inputs without batch and channels.
EXERCISES = {
    relu.ReLU: (relu.example, F.relu),
    max_pool2d.MaxPool2d: (max_pool2d.example, lambda x: F.max_pool2d(x[None, None], 2)[0, 0]),
    grid_sample.GridSample: (
        grid_sample.example,
        lambda image, grid: F.grid_sample(image[None, None], grid[None], align_corners=True)[0, 0],
    ),
    affine_grid.AffineGrid: (
        affine_grid.example,
        lambda theta: F.affine_grid(theta[None], (1, 1, affine_grid.H, affine_grid.W), align_corners=True)[0],
    ),
}
every_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.__name__)


def results(function, arrays):
    inputs = [tensor(array, requires_grad=True) for array in arrays]
    output = function(*inputs)
    output.backward(np.random.default_rng(7).normal(size=output.shape))
    return [output.detach().numpy(), *(x.grad.numpy() for x in inputs)]


def report_of(exercise, backward):
    """The judge's report on the exercise with this backward."""
    return judge.report(type(exercise.__name__, (exercise,), {"backward": backward}), EXERCISES[exercise][0]())


@every_exercise
def test_solution_is_right_and_is_what_ministn_computes(exercise):
    example, kernel = EXERCISES[exercise]
    solved = judge.solution(exercise)
    right, text = judge.report(solved, example())
    assert right, text
    assert re.fullmatch(r"(\w+, gradient of \w+: right, in all \d+ entries\.\n?)+", text)
    for got, expected in zip(results(solved.apply, example()), results(kernel, example()), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14)  # sums of a dozen numbers near 1, in float64


@every_exercise
def test_exercise_is_not_written_yet(exercise):
    assert judge.report(exercise, EXERCISES[exercise][0]()) == (
        False,
        f"{exercise.__name__}: backward is not written yet.",
    )


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        ([], 1, "AffineGrid: backward is not written yet.\n"),
        (["--solution"], 0, "AffineGrid, gradient of theta: right, in all 6 entries.\n"),
    ],
)
def test_command(options, status, text):
    command = [sys.executable, str(FOLDER / "affine_grid.py"), *options]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (status, text, "")


def to_all_pixels(self, g):
    return g.repeat(2, axis=0).repeat(2, axis=1)


def onto(column_order=(0, 1), factors=(1, 1)):
    """A grid gradient with its columns exchanged, or too small by a factor."""
    solved = judge.solution(grid_sample.GridSample).backward
    return lambda self, g: (None, solved(self, g)[1][..., list(column_order)] / factors)


def rows_weighed_by_t(self, g):
    self.t, self.s = self.s, self.t
    return None, judge.solution(grid_sample.GridSample).backward(self, g)[1]


def last_point_only(self, g):
    """`a[...] += b` where pixels repeat."""
    grad_image = np.zeros(self.image.shape)
    for v, y_weight in enumerate((1 - self.s, self.s)):
        for u, x_weight in enumerate((1 - self.t, self.t)):
            grad_image[self.top + v, self.left + u] += g * y_weight * x_weight
    return grad_image, judge.solution(grid_sample.GridSample).backward(self, g)[1]


def each_pixel(self, g):
    return g[..., :, None] * self.points[..., None, :]


def into_grad_output(self, g):
    g[self.x < 0] = 0
    return g


def into_x(self, g):
    self.x[self.x < 0] = 0
    return g * (self.x > 0)


# What a learner writes, and what the judge must say of it.
SLIPS = {
    "ReLU without the mask": (relu.ReLU, lambda self, g: g.copy(), ["6 of them should be 0"]),
    "ReLU of grad_output": (relu.ReLU, lambda self, g: np.maximum(g, 0), ["x[", "expected", "got 0"]),
    "ReLU without grad_output": (
        relu.ReLU,
        lambda self, g: (self.x > 0).astype(float),
        ["same for every grad_output"],
    ),
    "ReLU, the mask alone": (relu.ReLU, lambda self, g: self.x > 0, ["got bool", "where does grad_output enter"]),
    "ReLU, its sign": (relu.ReLU, lambda self, g: -g * (self.x > 0), ["Times -1 it", "a sign missing"]),
    "ReLU, not a number": (
        relu.ReLU,
        lambda self, g: np.where(self.x > 0, g, np.nan),
        ["6 of 12 entries differ", "expected 0, got nan"],
    ),
    "ReLU without return": (relu.ReLU, lambda self, g: None, ["not written yet, backward returns None"]),
    "ReLU in place": (relu.ReLU, into_grad_output, ["writes into grad_output", "make a new array"]),
    "ReLU in its input": (relu.ReLU, into_x, ["writes into x,", "make a new array"]),
    "max pooling to all": (max_pool2d.MaxPool2d, to_all_pixels, ["18 of 24 entries", "18 of them should be 0"]),
    "max pooling, the mean": (max_pool2d.MaxPool2d, lambda self, g: to_all_pixels(self, g) / 4, ["24 of 24", "18 of"]),
    "max pooling, its output's shape": (max_pool2d.MaxPool2d, lambda self, g: g.copy(), ["(4, 6), got (2, 3)"]),
    "grid without (W - 1) / 2": (
        grid_sample.GridSample,
        onto(factors=(2.5, 1.5)),
        ["gradient of image: not written yet", "With grid[..., 0] times 2.5, grid[..., 1] times 1.5 it would be right"],
    ),
    "grid with W / 2": (grid_sample.GridSample, onto(factors=(2.5 / 3, 1.5 / 2)), ["0] times 0.8333", "1] times 0.75"]),
    "x and y exchanged": (
        grid_sample.GridSample,
        onto((1, 0)),
        ["exchanged along axis 2 it would be right: are x and"],
    ),
    "x and y exchanged, and no factors": (
        grid_sample.GridSample,
        onto((1, 0), (1.5, 2.5)),
        ["exchanged along axis 2 it would be right but for factors"],
    ),
    "grid, a sign in x": (
        grid_sample.GridSample,
        onto(factors=(-1, 1)),
        ["With grid[..., 0] times -1 it would be right: is a factor or a sign missing?"],
    ),
    "rows weighed by t": (grid_sample.GridSample, rows_weighed_by_t, ["30 of 30 entries differ", "grid["]),
    "pixels shared by points": (
        grid_sample.GridSample,
        last_point_only,
        [
            "gradient of image: not right yet",
            "gradient of grid: right",
        ],
    ),
    "one gradient of two": (
        grid_sample.GridSample,
        lambda self, g: g,
        ["a tuple, the gradients of image, grid, got 1"],
    ),
    "theta of each pixel": (affine_grid.AffineGrid, each_pixel, ["(2, 3), got (3, 4, 2, 3)", "the sum over all"]),
    "theta, the mean": (
        affine_grid.AffineGrid,
        lambda self, g: each_pixel(self, g).mean((0, 1)),
        ["Times 12 it would"],
    ),
    "theta, x and y exchanged": (
        affine_grid.AffineGrid,
        lambda self, g: each_pixel(self, g).sum((0, 1))[:, [1, 0, 2]],
        ["exchanged along axis 1 it would be right: are x and y"],
    ),
    "theta, rows exchanged": (
        affine_grid.AffineGrid,
        lambda self, g: each_pixel(self, g).sum((0, 1))[::-1],
        ["exchanged along axis 0 it would be right: are x and y"],
    ),
}


@pytest.mark.parametrize(("exercise", "backward", "words"), SLIPS.values(), ids=SLIPS)
def test_slip_is_found_and_named(exercise, backward, words):
    right, text = report_of(exercise, backward)
    assert not right
    for word in words:
        assert word in text


def test_report_names_the_entry_and_both_numbers():
    """With w the judge's dL/dy, only x[1, 2] is wrong, and expected to be what it was."""

    def backward(self, g):
        gradient = g * (self.x > 0)
        gradient[1, 2] += 10
        return gradient

    x = relu.example()[0]
    w = np.random.default_rng(1).normal(size=x.shape)
    expected = w[1, 2] * (x[1, 2] > 0)
    text = report_of(relu.ReLU, backward)[1]
    assert "1 of 12 entries differ" in text
    number = r"(-?[\d.e-]+)"
    said = re.search(rf"x\[1, 2\]: expected {number}, got {number}\n?", text)
    np.testing.assert_allclose([float(n) for n in said.groups()], [expected, expected + 10], atol=1e-4)


def test_report_in_the_readme_is_the_judges():
    assert report_of(relu.ReLU, lambda self, g: g)[1] in (FOLDER / "README.md").read_text()


def test_a_grid_alone_is_judged_alone():
    solved = judge.solution(grid_sample.GridSample).backward
    right, text = report_of(grid_sample.GridSample, lambda self, g: (None, solved(self, g)[1]))
    assert not right
    assert text.splitlines() == [
        "GridSample, gradient of image: not written yet, backward returns None.",
        "GridSample, gradient of grid: right, in all 30 entries.",
    ]


def test_numbers_keep_away_from_kinks_and_meet_where_they_should():
    assert np.abs(relu.example()[0]).min() >= 0.1
    x = max_pool2d.example()[0]
    assert np.diff(np.sort(x.ravel())).min() > 0.09
    node, (image, grid) = grid_sample.GridSample(), grid_sample.example()
    node.forward(image, grid)
    for part in (node.t, node.s):
        assert 0.09 < part.min() <= part.max() < 0.91
    cells = list(zip(node.top.ravel(), node.left.ravel(), strict=True))
    assert len(set(cells)) < len(cells)  # else `+=` would do for the image


def test_solutions_need_no_kernels():
    for path in (FOLDER / "solutions").glob("*.py"):
        assert "ministn" not in path.read_text()
    assert {path.name for path in (FOLDER / "solutions").glob("*.py")} == {
        path.name for path in FOLDER.glob("*.py") if path.name != "judge.py"
    }
