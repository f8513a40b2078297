"""The numbers behind the pictures, and what stands on them."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest

from ministn import nn, viz
from ministn.autodiff import Tensor
from ministn.kernels._coordinates import to_pixels
from ministn.nn.transforms import get

HEIGHT, WIDTH = 9, 7


def rotation(degrees: float) -> np.ndarray:
    radians = np.radians(degrees)
    return np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])


def png(figure) -> bytes:
    """The picture as it would be saved; pytest turns Matplotlib's warnings into errors."""
    buffer = io.BytesIO()
    figure.savefig(buffer)
    assert buffer.getvalue().startswith(b"\x89PNG")
    return buffer.getvalue()


def texts(figure) -> str:
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


# --- decompose ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theta", "expected"),
    [
        ([[1, 0, 0], [0, 1, 0]], (0, 1, 1, 0, 0, 0)),
        ([[0, -1, 0], [1, 0, 0]], (90, 1, 1, 0, 0, 0)),
        ([[0.5, 0, 0.25], [0, 2, -0.5]], (0, 0.5, 2, 0, 0.25, -0.5)),
        ([[1, 0.5, 0], [0, 1, 0]], (0, 1, 1, 0.5, 0, 0)),
        ([[1, 0, 0], [0, -1, 0]], (0, 1, -1, 0, 0, 0)),  # mirrored
        ([[-1, 0, 0], [0, -1, 0]], (180, 1, 1, 0, 0, 0)),
        ([[0, 0, 0], [0, 3, 0]], (0, 0, 3, 0, 0, 0)),  # no rotation can be told
    ],
)
def test_decompose_by_hand(theta, expected):
    parts = viz.decompose(np.array(theta, float))
    assert tuple(parts) == viz.PARTS
    np.testing.assert_allclose([parts[name] for name in viz.PARTS], expected, atol=1e-14)  # rounding of cos(90 degrees)


def test_decompose_undoes_the_product_in_its_docstring():
    generator = np.random.default_rng(0)
    for _ in range(50):
        angle, shear = generator.uniform(-180, 180), generator.uniform(-2, 2)
        scale_x, scale_y = generator.uniform(0.1, 3), generator.choice([-1, 1]) * generator.uniform(0.1, 3)
        shift = generator.uniform(-1, 1, 2)
        matrix = rotation(angle) @ np.diag([scale_x, scale_y]) @ [[1, shear], [0, 1]]
        parts = viz.decompose(np.column_stack([matrix, shift]))
        expected = (angle, scale_x, scale_y, shear, *shift)
        # float64 rounding, times a condition number of up to (3 / 0.1)^2
        np.testing.assert_allclose([parts[name] for name in viz.PARTS], expected, rtol=0, atol=1e-10)


def test_decompose_takes_a_batch_and_rejects_other_shapes():
    batch = np.random.default_rng(0).normal(size=(4, 5, 2, 3))
    parts = viz.decompose(batch)
    assert all(values.shape == (4, 5) for values in parts.values())
    assert parts["angle"][2, 3] == viz.decompose(batch[2, 3])["angle"]
    with pytest.raises(ValueError, match=r"decompose: expected theta of shape \(..., 2, 3\), got \(3, 2\)"):
        viz.decompose(np.zeros((3, 2)))


def test_a_positive_angle_turns_the_grid_clockwise_on_the_screen():
    """With y down, the target point to the right reads a source point further down."""
    theta = np.column_stack([rotation(30), [0, 0]])
    assert viz.decompose(theta)["angle"] == pytest.approx(30)
    _, y = theta @ [1, 0, 1]
    assert y == pytest.approx(0.5)  # sin 30 degrees


# --- the sampling grid --------------------------------------------------------------------------------------------


def test_sampling_grid_of_the_identity_is_the_outline_of_the_pixels():
    lines = viz.sampling_grid(np.array([[1, 0, 0], [0, 1, 0]]), (HEIGHT, WIDTH), cells=1)
    left, right, top, bottom = -0.5, WIDTH - 0.5, -0.5, HEIGHT - 0.5
    expected = [
        [(left, top), (right, top)],
        [(left, bottom), (right, bottom)],
        [(left, top), (left, bottom)],
        [(right, top), (right, bottom)],
    ]
    np.testing.assert_allclose(lines, expected, atol=1e-14)


def test_sampling_grid_by_hand():
    """Half the size, moved right by a quarter of the width: x = 0.5 u + 0.5, y = 0.5 v."""
    lines = viz.sampling_grid(np.array([[0.5, 0, 0.5], [0, 0.5, 0]]), (4, 8), cells=2)
    assert lines.shape == (6, 2, 2)
    # x from 0 to 1 is pixel ((0 + 1) 8 - 1) / 2 = 3.5 to 7.5; y from -0.5 to 0.5 is 0.5 to 2.5, its middle 1.5
    np.testing.assert_allclose(lines[:3], [[(3.5, y), (7.5, y)] for y in (0.5, 1.5, 2.5)], atol=1e-14)
    np.testing.assert_allclose(lines[3:], [[(x, 0.5), (x, 2.5)] for x in (3.5, 5.5, 7.5)], atol=1e-14)
    with pytest.raises(ValueError, match=r"sampling_grid: expected theta of shape \(2, 3\), got \(1, 2, 3\)"):
        viz.sampling_grid(np.zeros((1, 2, 3)), (4, 8))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("name", ["affine", "projective", "tps"])
def test_sampling_grid_of_any_transform_lies_where_the_sampler_reads(name, align_corners):
    """One cell for each step from pixel to pixel: the lines cross where `grid` has its points."""
    transform = get(name)
    noise = np.random.default_rng(0).standard_normal(transform.num_parameters)
    theta = transform.theta(Tensor((transform.identity + 0.1 * noise)[None]))
    lines = viz.sampling_grid(theta.data[0], (HEIGHT, WIDTH), 4, transform, align_corners)
    assert lines.shape == (10, 2 if name == "affine" else 33, 2)
    # With corners aligned, the pixels of a 5 x 5 output lie from -1 to 1 in steps of a cell.
    crossings = transform.grid(theta, (1, 1, 5, 5), align_corners=True).data[0]
    pixels = [to_pixels(crossings[..., a], n, align_corners) for a, n in ((0, WIDTH), (1, HEIGHT))]
    crossings = np.stack(pixels, axis=-1)
    if name == "affine":
        on_lines, crossings_of_rows, crossings_of_columns = lines, crossings[:, ::4], crossings[::4]  # ends only
    else:
        on_lines, crossings_of_rows, crossings_of_columns = lines[:, ::8], crossings, crossings
    np.testing.assert_allclose(on_lines[:5], crossings_of_rows, rtol=0, atol=1e-12)  # float64 rounding
    np.testing.assert_allclose(on_lines[5:], crossings_of_columns.swapaxes(0, 1), rtol=0, atol=1e-12)


def test_sampling_grid_takes_a_transform_by_name():
    theta = np.eye(3)
    np.testing.assert_allclose(
        viz.sampling_grid(theta, (4, 8), 2, "projective")[:, [0, -1]],
        viz.sampling_grid(theta[:2], (4, 8), 2),
        atol=1e-14,
    )
    with pytest.raises(ValueError, match=r"sampling_grid: expected theta of shape \(3, 3\), got \(2, 3\)"):
        viz.sampling_grid(theta[:2], (4, 8), 2, "projective")
    with pytest.raises(ValueError, match=r"expected theta of shape \(N, 16, 2\), got \(1, 15, 2\)"):
        viz.sampling_grid(np.zeros((15, 2)), (4, 8), 2, "tps")


# --- the pictures -------------------------------------------------------------------------------------------------


class Classifier:
    """Is sure to 60 % that the digit is the pixel in the corner."""

    def eval(self) -> None:
        self.was_in_eval = True

    def __call__(self, x: Tensor) -> Tensor:
        table = np.full((len(x), 10), 0.4 / 9, np.float32)
        digits = np.rint(x.data[:, 0, 0, 0] * 255).astype(int)
        table[np.arange(len(x)), digits] = 0.6
        return Tensor(np.log(table))


class WithTransformer(Classifier):
    def theta(self, x: Tensor) -> Tensor:
        return Tensor(np.tile(np.array([[0.8, 0, 0.6], [0, 0.8, 0]], np.float32), (len(x), 1, 1)))

    def stn(self, x: Tensor) -> Tensor:
        return Tensor(x.data[:, :, ::-1])


def digits_in_the_corner(values: list[int]) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (len(values), HEIGHT, WIDTH)).astype(np.uint8)
    images[:, 0, 0] = values
    return images


@pytest.mark.parametrize("epochs", [1, 12])
def test_learning_curves(epochs):
    history = [
        {
            "epoch": epoch,
            "train_loss": 0.5 / epoch,
            "test_loss": 0.4 / epoch,
            "train_accuracy": 1 - 0.2 / epoch,
            "test_accuracy": 0.99 if epoch < epochs else 1.0,
        }
        for epoch in range(1, epochs + 1)
    ]
    figure = viz.learning_curves(history, data="drawn digits")
    loss, error = figure.axes
    np.testing.assert_allclose(loss.lines[1].get_ydata(), [0.4 / row["epoch"] for row in history])
    np.testing.assert_allclose(error.lines[0].get_ydata(), [20 / row["epoch"] for row in history])
    assert error.lines[1].get_ydata()[-1] == 0.01  # no mistake at all has its place on the logarithmic axis
    png(figure)
    assert f"100.00 % of the test digits read after epoch {epochs}\ndrawn digits" in texts(figure)
    for axes in figure.axes:
        assert all(float(label).is_integer() for label in axes.get_xticks())


def test_warped_digits():
    model = WithTransformer()
    images = digits_in_the_corner([3, 1, 4])
    figure = viz.warped_digits(model, images, mean=0.25, std=0.5, data="drawn digits", cells=4)
    assert model.was_in_eval
    rows = np.array(figure.axes).reshape(3, 3)
    np.testing.assert_array_equal(rows[0, 2].images[0].get_array(), images[2] / 255)
    # normalised in float32, turned over, and back: equal to within float32 rounding of numbers up to 2
    np.testing.assert_allclose(rows[2, 2].images[0].get_array(), images[2, ::-1] / 255, atol=1e-6)
    grid, top = rows[1, 0].collections
    assert len(grid.get_segments()) == 10
    right_edge = ((0.8 + 0.6 + 1) * WIDTH - 1) / 2
    assert top.get_segments()[0][1] == pytest.approx([right_edge, ((1 - 0.8) * HEIGHT - 1) / 2], abs=1e-5)  # float32
    assert rows[1, 0].get_xlim()[1] > right_edge > WIDTH - 0.5  # what lies outside the input is shown too
    assert rows[1, 0].get_ylim()[0] > rows[1, 0].get_ylim()[1]  # y points down
    assert rows[1, 0].get_facecolor()[:3] == (0.25, 0.25, 0.25)  # there the network reads the mean
    assert "drawn digits" in texts(figure)
    png(figure)


class Through:
    """A network that has its transformer as `transformer`, as those of `ministn.models.table1_model` have."""

    def __init__(self, transformer):
        self.transformer = transformer
        self.theta, self.stn, self.eval = transformer.theta, transformer, transformer.eval


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
def test_warped_digits_of_any_transformer(padding_mode, wrapped):
    images = digits_in_the_corner([3, 1, 4])
    transform = get("tps")
    moved = transform.identity + 0.2 * np.random.default_rng(0).standard_normal(32)
    parameters = np.tile(moved.astype(np.float32), (3, 1))
    layer = nn.SpatialTransformer(
        lambda x: Tensor(parameters), transform, output_size=5, align_corners=True, padding_mode=padding_mode
    )
    figure = viz.warped_digits(Through(layer) if wrapped else layer, images, cells=4)
    rows = np.array(figure.axes).reshape(3, 3)
    grid, top = rows[1, 2].collections
    expected = viz.sampling_grid(parameters[0].reshape(16, 2), (HEIGHT, WIDTH), 4, transform, align_corners=True)
    np.testing.assert_allclose(grid.get_segments(), expected, atol=1e-12)
    np.testing.assert_allclose(top.get_segments(), expected[:1], atol=1e-12)
    warped = layer(Tensor(images[:, None] / np.float32(255))).data
    np.testing.assert_array_equal(rows[2, 1].images[0].get_array(), np.clip(warped[1, 0], 0, 1))
    assert ("reads the mean grey" in texts(figure)) == (padding_mode == "zeros")
    png(figure)


def test_lines_that_run_to_the_horizon_are_cut_off():
    """w = 1 + 1.5 x is 0 at x = -2/3: there the lines of constant y leave on one side and come back on the other."""
    parameters = np.array([[1, 0, 0, 0, 1, 0, 1.5, 0]], np.float32)
    layer = nn.SpatialTransformer(lambda x: Tensor(parameters), "projective")
    figure = viz.warped_digits(layer, digits_in_the_corner([3]), cells=4)
    axes = figure.axes[1]
    assert axes.get_xlim()[0] >= WIDTH / 2 - 2.5 * WIDTH - 1
    assert axes.get_xlim()[1] <= WIDTH / 2 + 2.5 * WIDTH + 1
    path = axes.collections[0].get_paths()[0].vertices
    assert 0 < np.isnan(path).any(axis=1).sum() < len(path) / 2
    png(figure)


def test_theta_over_training():
    rows = [
        {"step": step, "epoch": step / 10}
        | {f"{part}_mean": value + step for value, part in enumerate(viz.PARTS)}
        | {f"{part}_std": 0.5 for part in viz.PARTS}
        for step in range(30)
    ]
    figure = viz.theta_over_training(rows, data="drawn digits")
    angle, scale, shear, shift = figure.axes
    np.testing.assert_array_equal(angle.lines[0].get_xdata(), np.arange(30) / 10)
    np.testing.assert_array_equal(angle.lines[0].get_ydata(), np.arange(30))
    np.testing.assert_array_equal(scale.lines[1].get_ydata(), 2 + np.arange(30))
    np.testing.assert_array_equal(shear.lines[0].get_ydata(), 3 + np.arange(30))
    np.testing.assert_array_equal(shift.lines[0].get_ydata(), 4 + np.arange(30))
    band = angle.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (-0.5, 29.5)
    assert "drawn digits" in texts(figure)
    png(figure)


@pytest.mark.parametrize("model", [Classifier(), WithTransformer()], ids=["classifier", "with transformer"])
def test_hardest_mistakes(model):
    images = digits_in_the_corner([0, 1, 2, 3, 4, 5, 6])
    labels = np.array([0, 9, 2, 8, 4, 7, 6])
    figure = viz.hardest_mistakes(model, images, labels, data="drawn digits", count=2)
    shown = texts(figure)
    assert "Hardest mistakes: 3 of 7 misread\ndrawn digits" in shown
    assert "9 read as 1 (60 %)" in shown
    assert "8 read as 3 (60 %)" in shown
    assert "7 read as 5" not in shown  # only two were asked for
    has_stn = isinstance(model, WithTransformer)
    assert len(figure.axes) == (4 if has_stn else 2)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), images[1] / 255)
    if has_stn:
        np.testing.assert_allclose(figure.axes[2].images[0].get_array(), images[1, ::-1] / 255, atol=1e-6)  # float32
    png(figure)


def test_hardest_mistakes_shows_the_highest_loss_first():
    class Graded(Classifier):
        """Reads 1 everywhere, the surer the brighter the pixel in the corner."""

        def __call__(self, x: Tensor) -> Tensor:
            sure = 0.5 + x.data[:, 0, 0, 0] / 2.5
            table = np.repeat((1 - sure)[:, None] / 9, 10, axis=1)
            table[:, 1] = sure
            return Tensor(np.log(table))

    images = digits_in_the_corner([10, 200, 100])
    figure = viz.hardest_mistakes(Graded(), images, np.array([2, 3, 4]))
    assert [axes.get_title()[:11] for axes in figure.axes] == ["3 read as 1", "4 read as 1", "2 read as 1"]


def test_no_mistakes_at_all():
    figure = viz.hardest_mistakes(Classifier(), digits_in_the_corner([1, 2]), np.array([1, 2]), data="drawn digits")
    assert "No digit was misread." in texts(figure)
    png(figure)


def test_contact_sheet_has_the_images_row_by_row_and_their_labels():
    images = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3)
    figure = viz.contact_sheet(images, [7, 8, 9, "x", 3], "Digits", data="drawn digits", columns=3)
    sheet = figure.axes[0].images[0].get_array()
    expected = np.full((5, 11), 255)
    for number, image in enumerate(images):
        i, j = divmod(number, 3)
        expected[3 * i : 3 * i + 2, 4 * j : 4 * j + 3] = image
    np.testing.assert_allclose(sheet, expected / 255, rtol=1e-15)
    assert [text.get_text() for text in figure.axes[0].texts] == ["7", "8", "9", "x", "3"]
    assert [text.get_position() for text in figure.axes[0].texts] == [(0, 0), (4, 0), (8, 0), (0, 3), (4, 3)]
    assert "Digits\ndrawn digits" in texts(figure)
    png(figure)
    axes = viz.contact_sheet(images[:4], "aabb", columns=2).axes[0]  # a label for each row
    assert [(tick.get_text(), *tick.get_position()) for tick in axes.get_yticklabels()] == [
        ("a", 0, 0.5),
        ("b", 0, 3.5),
    ]
    assert len(axes.texts) == 0
    assert viz.contact_sheet(images, range(5)).axes[0].images[0].get_array().shape == (2, 19)  # one row, no wider


@pytest.mark.parametrize(("number", "labels"), [(0, []), (2, [1])])
def test_contact_sheet_needs_images_and_a_label_for_each(number, labels):
    with pytest.raises(ValueError, match=r"contact_sheet: expected images .* and as many labels, got"):
        viz.contact_sheet(np.zeros((number, 2, 2), np.uint8), labels)


def test_matplotlib_is_loaded_by_the_first_picture_and_pyplot_never():
    program = (
        "import sys; from ministn import viz\n"
        "assert 'matplotlib' not in sys.modules\n"
        "viz.theta_over_training([dict(epoch=0.0, **{f'{p}_{s}': 0.0 for p in viz.PARTS for s in ('mean', 'std')})])\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    warnings = ["-W", "error", "-W", "default::DeprecationWarning"]  # as for the other tests
    subprocess.run([sys.executable, *warnings, "-c", program], check=True)
