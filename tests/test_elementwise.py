"""The elementwise loops against the whole-array expressions, in every order of memory."""

import numpy as np
import pytest
from implementations import KERNELS, kernels

from ministn import Tensor, backend, optim
from ministn.ops.elementwise import reference

DTYPES = [np.float32, np.float64]
LOOPS = [name for name in KERNELS if name != "reference"]
LAYOUTS = {
    "C": lambda x: x,
    "batch-last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0),
    "gaps": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "one number": lambda x: np.broadcast_to(x[:1, :1, :1], x.shape),
}


def loops():
    """The family as it serves NumPy arrays, within `kernels`."""
    return backend.implementation("ministn.ops.elementwise", np.empty(0))


def numbers(seed, dtype, shape=(5, 4, 7)):
    x = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    x.flat[3:9] = [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan]
    return x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", LOOPS)
def test_relu(name, layout, dtype):
    x = LAYOUTS[layout](numbers(0, dtype))
    with kernels(name):
        y = loops().relu(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, reference.relu(x))
    np.testing.assert_array_equal(y[np.isfinite(x)], np.where(x > 0, x, 0)[np.isfinite(x)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("name", LOOPS)
def test_relu_gradient(name, layout, grad_layout, dtype):
    y, g = reference.relu(LAYOUTS[layout](numbers(0, dtype))), LAYOUTS[grad_layout](numbers(1, dtype))
    with kernels(name):
        dx = loops().relu_gradient(g, y)
    assert dx.dtype == dtype
    np.testing.assert_array_equal(dx, reference.relu_gradient(g, y))
    np.testing.assert_array_equal(dx, np.where(y > 0, g, 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["C", "batch-last"])
@pytest.mark.parametrize("shape", [(33, 3, 5, 4), (64, 2, 3, 5), (2, 3, 1, 1), (0, 2, 3, 3)])
@pytest.mark.parametrize("name", LOOPS)
def test_formulas_of_images(name, shape, layout, dtype):
    """Four axes: rows of images are shared out."""
    draw = np.random.default_rng(0).standard_normal
    x, g = (LAYOUTS[layout](draw(shape).astype(dtype)) for _ in range(2))
    scale = draw((*shape[:2], 1, 1)).astype(dtype)
    with kernels(name):
        results = loops().relu(x), loops().relu_gradient(g, x), loops().scaled(x, scale)
    for result, expected in zip(results, (np.where(x > 0, x, 0), np.where(x > 0, g, 0), x * scale), strict=True):
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["C", "batch-last"])
@pytest.mark.parametrize("shape", [(33, 3, 5, 4), (64, 1, 3, 5), (16, 2, 1, 1), (2, 3, 4, 5), (0, 2, 3, 3)])
@pytest.mark.parametrize("name", KERNELS)
def test_images_with_more_channels(name, shape, layout, dtype):
    """In the image's order of memory; what is NaN or infinite stays so."""
    draw = np.random.default_rng(0).standard_normal
    x, channels = LAYOUTS[layout](draw(shape).astype(dtype)), draw((2, *shape[2:])).astype(dtype)
    x.flat[:3], channels.flat[:2] = (np.nan, np.inf, -0.0), (np.nan, -np.inf)
    expected = np.concatenate([x, np.broadcast_to(channels, (len(x), *channels.shape))], axis=1)
    with kernels(name):
        result = loops().with_channels(x, channels)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, expected)
    batch_last = layout == "batch-last" and name in ("cpu", "reference")  # the GPU's images are NCHW
    assert result.transpose(1, 2, 3, 0).flags.c_contiguous if batch_last else result.flags.c_contiguous


@pytest.mark.parametrize("name", LOOPS)
def test_relu_of_integers_and_of_a_single_number(name):
    with kernels(name):
        np.testing.assert_array_equal(loops().relu(np.array([-2, 0, 3])), [0, 0, 3])
        assert loops().relu(np.array(-2.0)).shape == ()
        assert loops().relu(np.array(-2.0)) == 0


def optimisers(params):
    return {
        "SGD": lambda: optim.SGD(params, lr=0.1),
        "momentum": lambda: optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
        "nesterov": lambda: optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
        "Adam": lambda: optim.Adam(params, lr=0.1, weight_decay=0.01),
        "AdamW": lambda: optim.AdamW(params, lr=0.1),
    }


def trained(name, layout, grad_layout, dtype, served_by):
    """A parameter after two steps, a reload of the optimiser's state (which loses its memory order), and a third."""
    rng = np.random.default_rng(0)
    param = Tensor(LAYOUTS[layout](rng.standard_normal((5, 4, 7)).astype(dtype)), requires_grad=True)
    optimiser = optimisers([param])[name]()
    with kernels(served_by):
        for step in range(3):
            param.grad = Tensor(LAYOUTS[grad_layout](rng.standard_normal((5, 4, 7)).astype(dtype)))
            if step == 2:
                optimiser.load_state_dict(optimiser.state_dict())
            optimiser.step()
    return param.data


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["C", "batch-last", "gaps"])
@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("name", optimisers([]))
@pytest.mark.parametrize("served_by", LOOPS)
def test_optimiser_steps(served_by, name, layout, grad_layout, dtype):
    moved = trained(name, layout, grad_layout, dtype, served_by)
    assert moved.dtype == dtype
    if grad_layout != "one number" and served_by == "cpu":
        np.testing.assert_array_equal(moved, trained(name, "C", "C", dtype, served_by))
    expected = trained(name, layout, grad_layout, dtype, "reference")
    np.testing.assert_allclose(moved, expected, rtol=1e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("shape", [(64,), (2, 3)], ids=str)
def test_steps_with_an_array_of_another_shape_are_refused(name, shape):
    w, other = np.zeros(5 if shape == (64,) else (3, 2)), np.ones(shape)
    with kernels(name):
        for step in (
            lambda: loops().add_scaled_(w, 1.0, other),
            lambda: loops().scale_and_add_(w, 1.0, other),
            lambda: loops().adam_(w, w.copy(), w.copy(), other, 0.9, 0.9, 0.1, 1.0, 1.0),
            lambda: loops().adam_(w, w.copy(), other, w.copy(), 0.9, 0.9, 0.1, 1.0, 1.0),
        ):
            with pytest.raises(ValueError, match="broadcast"):
                step()
    assert not w.any()


# --- random masks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_masks_continue_the_generators_sequence(name, dtype):
    """Every device draws what NumPy draws, and leaves the generator where NumPy does: odd counts leave half a draw."""
    ours, numpys = np.random.default_rng(7), np.random.default_rng(7)
    for shape, p in [((3, 5), 0.5), ((4, 1), 0.1), ((1, 1), 0.9), ((2, 3, 1, 1), 0.3), ((0, 3), 0.5), ((67, 33), 0.2)]:
        with kernels(name):
            mask = loops().random_mask(ours, shape, p, 1 / (1 - p), np.empty((2, 2), dtype))
        expected = np.where(numpys.random(shape, dtype=np.float32) >= p, dtype(1 / (1 - p)), dtype(0))
        assert mask.dtype == dtype
        np.testing.assert_array_equal(mask, expected)
        assert ours.bit_generator.state == numpys.bit_generator.state
        if shape == (4, 1):  # a draw of 64 bits passes the half that is left over, which stays for the next mask
            assert ours.random() == numpys.random()


@pytest.mark.parametrize("name", KERNELS)
def test_masks_of_another_generator(name):
    """One that is not PCG64 is asked on the CPU."""
    with kernels(name):
        mask = loops().random_mask(
            np.random.Generator(np.random.Philox(3)), (5, 4), 0.5, 2.0, np.empty((2, 2), np.float32)
        )
    drawn = np.random.Generator(np.random.Philox(3)).random((5, 4), dtype=np.float32)
    np.testing.assert_array_equal(mask, np.where(drawn >= 0.5, 2, 0))
