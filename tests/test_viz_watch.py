"""What a `Watch` keeps of a training, and the pictures of it."""

from __future__ import annotations

import contextlib
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from test_viz import png, texts

from ministn import nn, viz
from ministn.autodiff import Tensor
from ministn.viz import watched
from ministn.viz.watch import edge_energy

DIGITS, VARIANTS, HEIGHT, WIDTH = 3, 2, 6, 8
STEPS_PER_EPOCH, TOTAL = 10, 64
LABELS = np.array([2, 5, 7])
DUE = [0, 1, 8, 27, 64]  # 64 (k / 4)^3


class Model:
    """Moves its grid to the right, and brightens, by as much as it has learned."""

    learned = 0.0
    looks = 0

    def eval(self) -> None:
        self.looks += 1

    def theta(self, x: Tensor) -> Tensor:
        return Tensor(np.tile(np.array([[1, 0, self.learned], [0, 1, 0]], np.float32), (len(x), 1, 1)))

    def stn(self, x: Tensor) -> Tensor:
        return Tensor(x.data + np.float32(self.learned))


class Average:
    """The weights that are tested: twice what the model has learned."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @contextlib.contextmanager
    def applied(self):
        self.model.learned *= 2
        yield
        self.model.learned /= 2


def make_trainer(average: bool = False) -> SimpleNamespace:
    model = Model()
    return SimpleNamespace(
        model=model,
        epoch=0,
        step=0,
        train_loader=range(STEPS_PER_EPOCH),
        average=Average(model) if average else None,
        read_metrics=lambda: None,
    )


def images(count: int, seed: int = 0, brightest: int = 150) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, brightest, (count, HEIGHT, WIDTH)).astype(np.uint8)


def make_watch(**changes) -> viz.Watch:
    digits = images(DIGITS * VARIANTS).reshape(DIGITS, VARIANTS, HEIGHT, WIDTH)
    crowd = {"crowd": images(12, 1), "crowd_labels": np.repeat(LABELS, 4), "undistorted": images(12, 2)}
    return viz.Watch(digits, LABELS, TOTAL, **{"moments": 4, "mean_moments": (0.125, 0.5, 1.0), **crowd, **changes})


def train(watch: viz.Watch, trainer: SimpleNamespace, start: int = 0, stop: int = TOTAL) -> None:
    """As a training does: `watch.record` before the first and after every step."""
    for step in range(start, stop + 1):
        trainer.epoch, trainer.step = divmod(step, STEPS_PER_EPOCH)
        trainer.model.learned = step / 256
        watch.record(trainer)


def assert_same(watch: viz.Watch, other: viz.Watch) -> None:
    for name in ("moments", "means"):
        table, others = getattr(watch, name), getattr(other, name)
        assert table.keys() == others.keys()
        for key in table:
            np.testing.assert_array_equal(table[key], others[key])


@pytest.fixture(scope="module")
def trained() -> viz.Watch:
    watch = make_watch()
    train(watch, make_trainer())
    return watch


# --- class_means --------------------------------------------------------------------------------------------------


def test_edge_energy_by_hand():
    # in rows 1 - 0 and 4 - 3, in columns 3 - 0 and 4 - 1
    assert edge_energy(np.array([[0.0, 1], [3, 4]])) == 1 + 1 + 9 + 9
    assert edge_energy(np.ones((5, 2, 3, 4))).shape == (5, 2)


def test_edge_energy_does_not_change_with_magnification():
    """A smooth blob, at twice the size: half the slope on four times the area."""
    at = np.linspace(-4, 4, 65)
    small, large = (np.exp(-(at[:, None] ** 2 + at**2) / (2 * width**2)) for width in (0.5, 1))
    assert edge_energy(large) == pytest.approx(edge_energy(small), rel=0.02)  # differences are no derivatives


def test_class_means_by_hand():
    ink = np.zeros((7, 2, 4))
    ink[0, 0, 0] = ink[1, 0, 0] = 0.5  # a class of two equal images
    ink[2, 0, 0] = ink[3, 1, 3] = 2  # two that have nothing in common
    ink[4, 0, 0] = 3  # a single one; and two that are black
    means, sharpness = viz.class_means(ink, [4, 4, 9, 9, 10, 11, 11])
    expected = np.zeros((4, 2, 4))
    expected[0, 0, 0], expected[1, 0, 0], expected[1, 1, 3], expected[2, 0, 0] = 0.5, 1, 1, 3
    np.testing.assert_array_equal(means, expected)
    np.testing.assert_array_equal(sharpness, [1, 0, 0, 0])
    # Measured by the energies from before a transformer; a pixel in the corner has two edges.
    _, sharpness = viz.class_means(ink[:2], [4, 4], np.array([1.0, 3.0]))
    np.testing.assert_array_equal(sharpness, [2 * 0.5**2 / 2])


def test_sharpness_is_the_mean_product_of_edges_over_all_pairs():
    group = np.random.default_rng(0).random((7, 3, 4))
    edges = [np.concatenate([np.diff(image, axis=0).ravel(), np.diff(image, axis=1).ravel()]) for image in group]
    pairs = np.mean([edges[i] @ edges[j] for i in range(7) for j in range(7) if i != j])
    _, sharpness = viz.class_means(group, np.zeros(7))
    assert sharpness[0] == pytest.approx(pairs / np.mean([edge @ edge for edge in edges]), rel=1e-4)  # float32, cancels


@pytest.mark.parametrize(("shape", "labels"), [((2, 3), [1, 1]), ((2, 3, 3), [1]), ((0, 3, 3), [])])
def test_class_means_needs_images_and_a_label_for_each(shape, labels):
    with pytest.raises(ValueError, match="class_means: expected images"):
        viz.class_means(np.zeros(shape), np.array(labels))


# --- the watch ----------------------------------------------------------------------------------------------------


def test_watch_looks_at_few_moments_most_of_them_early(trained):
    assert trained.moments["step"] == DUE
    assert trained.moments["epoch"] == [step / STEPS_PER_EPOCH for step in DUE]
    assert trained.means["step"] == [8, 32, 64]
    trainer = make_trainer()
    train(make_watch(), trainer)
    assert trainer.model.looks == len({*DUE, 8, 32, 64})  # at all other steps the model is left alone


def test_watch_keeps_what_the_model_does(trained):
    lines, warped = trained.moments["lines"][3], trained.moments["warped"][3]  # after 27 steps
    assert lines.shape == (DIGITS, VARIANTS, 16, 2, 2)
    shift = 27 / 256 * WIDTH / 2  # of normalised coordinates, in pixels
    # the top edge, and the left one
    np.testing.assert_allclose(
        lines[1, 1, 0], [(-0.5 + shift, -0.5), (WIDTH - 0.5 + shift, -0.5)], atol=1e-5
    )  # float32
    np.testing.assert_allclose(lines[1, 1, 8], [(-0.5 + shift, -0.5), (-0.5 + shift, HEIGHT - 0.5)], atol=1e-5)
    brightened = np.rint(trained.images + 27 / 256 * 255)
    np.testing.assert_array_equal(warped, brightened)
    before, after = trained.distorted[0], trained.means["images"][1]
    np.testing.assert_allclose(before[1], trained.crowd[4:8].mean(axis=0) / 255, rtol=1e-6)  # float32
    np.testing.assert_allclose(after, before + 32 / 256, rtol=1e-6)
    # Brighter everywhere, they have the same edges, and are measured by those from before the transformer.
    np.testing.assert_allclose(trained.means["sharpness"][1], trained.distorted[1], rtol=1e-5)
    np.testing.assert_array_equal(trained.undistorted[0], viz.class_means(images(12, 2) / 255, np.repeat(LABELS, 4))[0])


def test_a_transformer_that_returns_another_size_is_watched(tmp_path):
    watch, trainer = make_watch(), make_trainer()
    trainer.model.stn = lambda x: Tensor(np.repeat(x.data, 2, axis=2))
    train(watch, trainer)
    watch.save(tmp_path / "watch.npz")
    read = viz.Watch.read(tmp_path / "watch.npz")
    np.testing.assert_array_equal(read.moments["warped"][-1], np.repeat(watch.images, 2, axis=2))
    np.testing.assert_allclose(read.means["images"][-1], np.repeat(watch.distorted[0], 2, axis=1), rtol=1e-6)  # float32
    png(viz.mean_images(read))


def test_watch_looks_with_the_averaged_weights_and_in_the_normalisation_of_the_training():
    watch, trainer = make_watch(mean=0.5, std=0.25), make_trainer(average=True)
    train(watch, trainer, stop=1)
    assert trainer.model.learned == 1 / 256  # as it was
    np.testing.assert_allclose(watch.moments["lines"][1][0, 0, 0, 0], [-0.5 + 2 / 256 * WIDTH / 2, -0.5], atol=1e-5)
    # (v - mean) / std + 2 / 256, times std, plus mean
    np.testing.assert_array_equal(watch.moments["warped"][1], np.rint(watch.images + 2 / 256 * 0.25 * 255))


def test_watch_follows_a_bent_grid():
    transformer = nn.SpatialTransformer(lambda x: None, "tps")
    points = np.array(transformer.transform.control_points, np.float32)
    points[0] += 0.25  # the upper left corner
    model = Model()
    model.transformer = transformer
    model.theta = lambda x: Tensor(np.tile(points, (len(x), 1, 1)))
    watch, trainer = make_watch(), make_trainer()
    trainer.model = model
    watch.record(trainer)
    lines = watch.moments["lines"][0][2, 1]
    assert lines.shape == (16, 15, 2)
    # The spline goes through its control points; a quarter of -1 to 1 is an eighth of the size.
    np.testing.assert_allclose(lines[0, 0], [-0.5 + WIDTH / 8, -0.5 + HEIGHT / 8], atol=1e-4)  # float32, K + 3 terms
    np.testing.assert_allclose(lines[0, -1], [WIDTH - 0.5, -0.5], atol=1e-4)
    straight = np.linspace(lines[0, 0], lines[0, -1], 15)
    assert np.abs(lines[0] - straight).max() > 0.1


def test_a_training_that_was_interrupted_is_watched_as_if_it_had_not_been(trained, tmp_path):
    path = tmp_path / "watch.npz"
    watch = make_watch()
    train(watch, make_trainer(), stop=30)
    watch.save(path)  # the checkpoint is of step 20: what was seen after it comes again
    again = make_watch()
    again.resume(path)
    assert again.moments["step"] == [0, 1, 8, 27]
    train(again, make_trainer(), start=20)
    assert_same(again, trained)
    again.save(path)
    read = viz.Watch.read(path)
    assert_same(read, trained)
    np.testing.assert_array_equal(read.images, trained.images)
    np.testing.assert_array_equal(read.distorted[1], trained.distorted[1])
    np.testing.assert_array_equal(read.undistorted[1], trained.undistorted[1])
    assert [file.name for file in tmp_path.iterdir()] == ["watch.npz"]


def test_going_back_replaces_what_came_after(trained):
    watch, trainer = make_watch(), make_trainer()
    train(watch, trainer, stop=40)
    trainer.epoch, trainer.step, trainer.model.learned = 0, 8, 0.5
    watch.record(trainer)
    assert watch.moments["step"] == [0, 1, 8]
    assert watch.means["step"] == [8]
    assert watch.moments["lines"][-1][0, 0, 0, 0, 0] == -0.5 + 0.5 * WIDTH / 2


def test_nothing_is_written_where_nothing_has_come(tmp_path):
    watch, trainer = make_watch(mean=0.25, std=0.5), make_trainer()
    train(watch, trainer, stop=1)
    watch.save(tmp_path / "one.npz", compress=False)
    train(watch, trainer, start=2, stop=7)
    watch.save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").exists()
    assert not (tmp_path / "two.npz").exists()
    train(watch, trainer, start=1, stop=1)  # the training went back: as many moments, but not the same
    watch.save(tmp_path / "two.npz")
    assert viz.Watch.read(tmp_path / "one.npz").moments["step"] == [0, 1]
    read = viz.Watch.read(tmp_path / "two.npz")
    assert (tmp_path / "two.npz").stat().st_size < (tmp_path / "one.npz").stat().st_size
    assert read.moments["step"] == [0, 1]
    assert (read.mean, read.std, read.total_steps) == (0.25, 0.5, TOTAL)


def test_watch_refuses_what_does_not_fit(trained, tmp_path):
    trained.save(tmp_path / "watch.npz")
    other = make_watch()
    other.images = other.images + np.uint8(1)
    with pytest.raises(ValueError, match="watched other digits"):
        other.resume(tmp_path / "watch.npz")
    (tmp_path / "no.npz").write_bytes(b"PK\x03\x04")
    np.savez(tmp_path / "another.npz", images=trained.images)
    for name in ("no.npz", "another.npz"):
        with pytest.raises(ValueError, match=f"{name}: not the file of a Watch"):
            viz.Watch.read(tmp_path / name)
    with pytest.raises(ValueError, match=r"Watch: expected images of uint8 \(D, V, H, W\) and labels \(D,\)"):
        viz.Watch(images(3), LABELS, TOTAL)
    with pytest.raises(ValueError, match="Watch: expected total_steps to be at least 1, got 0"):
        viz.Watch(trained.images, LABELS, 0)
    with pytest.raises(ValueError, match="Watch: expected moments to be at least 1, got 0"):
        make_watch(moments=0)
    for name in ("crowd", "undistorted"):
        with pytest.raises(ValueError, match=f"Watch: expected {name} to be uint8, got float64"):
            make_watch(**{name: images(12) / 255})


# --- the pictures -------------------------------------------------------------------------------------------------


def test_before_and_after(trained):
    figure = viz.before_and_after(trained, digits=(7, 2, 5), data="drawn digits")
    # two blocks of three rows with an empty one between; two columns, an empty one, two more
    cells = np.array(figure.axes).reshape(7, 5)
    used = np.array([[bool(axes.images) for axes in row] for row in cells])
    expected = np.ones((7, 5), bool)
    expected[3], expected[:, 2], expected[4:, 3:] = False, False, False
    np.testing.assert_array_equal(used, expected)
    np.testing.assert_array_equal(cells[0, 1].images[0].get_array(), trained.images[2, 1] / 255)
    np.testing.assert_array_equal(cells[2, 1].images[0].get_array(), trained.moments["warped"][-1][2, 1] / 255)
    np.testing.assert_array_equal(cells[6, 0].images[0].get_array(), trained.moments["warped"][-1][1, 0] / 255)
    grid, top = cells[1, 3].collections
    np.testing.assert_array_equal(grid.get_segments(), trained.moments["lines"][-1][0, 0])
    np.testing.assert_array_equal(top.get_segments()[0], trained.moments["lines"][-1][0, 0, 0])
    assert "drawn digits" in texts(figure)
    png(figure)


def test_a_grid_that_is_far_away_does_not_shrink_the_picture(trained):
    watch = make_watch()
    watch.moments = {key: list(values) for key, values in trained.moments.items()}
    watch.moments["lines"][-1] = watch.moments["lines"][-1] + np.float32(1000)
    grid = viz.before_and_after(watch, digits=(2,)).axes[VARIANTS]
    assert grid.get_xlim() == (-1.5, 1.25 * WIDTH + 0.5)  # a quarter of the width, and a pixel


def test_mean_images(trained):
    figure = viz.mean_images(trained, data="drawn digits")
    cells = np.array(figure.axes).reshape(5, 3)  # as they come, three moments, undistorted
    for row, means in zip(cells, [trained.distorted[0], *trained.means["images"], trained.undistorted[0]], strict=True):
        for axes, image in zip(row, means, strict=True):
            np.testing.assert_allclose(axes.images[0].get_array(), image / means.max(), rtol=1e-6)  # float32
    shown = texts(figure)
    for sharpness in (trained.distorted[1], *trained.means["sharpness"], trained.undistorted[1]):
        assert f"{100 * sharpness.mean():.1f} %" in shown
    assert [axes.get_ylabel() for axes in cells[:, 0]] == [
        "as they come",
        "after\n0.8 epochs",
        "after\n3.2 epochs",
        "after\n6.4 epochs",
        "never\ndistorted",
    ]
    png(figure)
    assert len(viz.mean_images(trained, moments=[2]).axes) == 9


def test_undistorted_digits_lie_on_the_canvas_of_the_distorted_ones(trained):
    watch = make_watch()
    watch.means = trained.means
    images, sharpness = trained.undistorted
    watch.undistorted = images[:, 2:-1, :-3], sharpness
    shown = viz.mean_images(watch).axes[-1].images[0].get_array()
    assert shown.shape == watch.distorted[0].shape[1:]
    np.testing.assert_array_equal(shown[1:-2, 1:-2], images[-1, 2:-1, :-3] / images[:, 2:-1, :-3].max())
    assert shown.sum() == pytest.approx(shown[1:-2, 1:-2].sum())  # black around it


def test_warp_animation(trained, tmp_path):
    from PIL import Image

    path = tmp_path / "warp.gif"
    viz.warp_animation(trained, path, digits=(2, 7), data="drawn digits", variant=1)
    with Image.open(path) as animation:
        assert animation.info["loop"] == 0  # for ever
        assert animation.n_frames == len(DUE)
        frames, durations = [], []
        for number in range(animation.n_frames):
            animation.seek(number)
            frames.append(np.asarray(animation.convert("RGB")))
            durations.append(animation.info["duration"])
    assert durations == [1000, 120, 120, 120, 3500]
    assert all((one != other).any() for one, other in itertools.pairwise(frames))
    white = [(frame[:-10] == 255).all(axis=(1, 2)) for frame in frames]  # rows with nothing on them, above the bar
    np.testing.assert_array_equal(white[0], white[2])  # nothing jumps
    # The bar at the bottom is as long as the training so far, 27 of 64 steps
    bar = (frames[3][-2] == (86, 180, 233)).all(axis=1)
    assert bar.mean() == pytest.approx(27 / 64, abs=2 / bar.size)  # its end is somewhere in a pixel
    assert path.stat().st_size < 100_000
    assert [file.name for file in tmp_path.iterdir()] == ["warp.gif"]


def test_what_the_classifier_sees_may_have_another_size(trained, monkeypatch):
    watch, figures = make_watch(), []
    watch.moments = {key: values[-1:] for key, values in trained.moments.items()}
    watch.moments["warped"] = [np.zeros((DIGITS, VARIANTS, 4, 5), np.uint8)]
    make = watched._figure
    monkeypatch.setattr(watched, "_figure", lambda *size: figures.append(make(*size)) or figures[-1])
    watched._frames(watch, [0], "", 0)
    seen = figures[0].axes[1].images[0]
    assert seen.get_extent() == [-0.5, 4.5, 3.5, -0.5]  # its pixels are squares


def test_nothing_is_drawn_of_a_watch_that_has_seen_nothing(tmp_path):
    for draw in (viz.before_and_after, lambda *arguments: viz.warp_animation(arguments[0], tmp_path / "a.gif", (2,))):
        with pytest.raises(ValueError, match="expected a watch that has recorded at least one moment"):
            draw(make_watch(), (2,))
    with pytest.raises(ValueError, match="mean_images: expected a watch with a crowd"):
        viz.mean_images(make_watch(crowd=None, undistorted=None))


def test_only_watched_digits_can_be_shown(trained, tmp_path):
    with pytest.raises(ValueError, match=r"expected digits from \[2, 5, 7\], which are watched, got 3"):
        viz.warp_animation(trained, tmp_path / "warp.gif", digits=(3,))
