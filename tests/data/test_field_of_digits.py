"""Fields of digits: where boxes lie, that the ink fills them, and what overlaps."""

import numpy as np
import pytest

from ministn.data import field_of_digits, strokes
from ministn.data.field_of_digits import draw_boxes, fields, ink_boxes, paint

BOX = np.array([10.0, 20.0, 30.0, 45.0])  # 20 wide, 25 high


def one(digit, box=BOX):
    return paint(digit[None, None], np.asarray(box)[None, None])[0]


def test_boxes_are_inside_and_of_the_right_size():
    boxes = draw_boxes(10_000, 2, np.random.default_rng(0))
    sides = boxes[..., 2:] - boxes[..., :2]
    assert boxes.min() >= 0
    assert boxes.max() <= 64
    assert sides.min() >= 15 - 1e-12  # a difference of rounded numbers
    assert sides.max() <= 25 + 1e-12
    # Even from 15 to 25: mean 20, deviation 10 / sqrt(12); five deviations of the mean of 40,000.
    assert abs(sides.mean() - 20) < 5 * 10 / np.sqrt(12 * 40_000)
    assert abs(np.corrcoef(sides.reshape(-1, 2).T)[0, 1]) < 5 / np.sqrt(20_000)  # width and height are independent
    room = boxes[..., :2] / (64 - sides)  # even from 0 to 1
    assert abs(room.mean() - 0.5) < 5 / np.sqrt(12 * 40_000)


def test_fields_follow_from_the_generator():
    dataset = strokes.load(train_size=20, test_size=10, seed=0)
    images, boxes, labels = fields(dataset.train_images, dataset.train_labels, 30, 3, np.random.default_rng(4))
    again = fields(dataset.train_images, dataset.train_labels, 30, 3, np.random.default_rng(4))
    other = fields(dataset.train_images, dataset.train_labels, 30, 3, np.random.default_rng(5))
    assert (images.shape, images.dtype, boxes.shape, labels.shape) == ((30, 64, 64), np.uint8, (30, 3, 4), (30, 3))
    for ours, same, different in zip((images, boxes, labels), again, other, strict=True):
        np.testing.assert_array_equal(ours, same)
        assert (ours != different).any()


def test_labels_are_those_of_the_digits():
    """Digit k has the grey value 100 + k everywhere, so a field of one says which it is."""
    digits = np.broadcast_to(np.arange(100, 110, dtype=np.uint8)[:, None, None], (10, 28, 28))
    images, _, labels = fields(digits, np.arange(10), 50, 1, np.random.default_rng(0))
    np.testing.assert_array_equal(images.max(axis=(1, 2)), 100 + labels[:, 0])
    assert len(np.unique(labels)) > 5


def test_a_box_of_the_digits_own_size_copies_it():
    digit = np.random.default_rng(0).integers(1, 256, (28, 28)).astype(np.uint8)
    field = one(digit, [5, 3, 33, 31])
    np.testing.assert_array_equal(field[3:31, 5:33], digit)
    assert field.sum(dtype=int) == digit.sum(dtype=int)


def test_a_white_digit_is_its_box():
    expected = np.zeros((64, 64), np.uint8)
    expected[20:45, 10:30] = 255
    np.testing.assert_array_equal(one(np.full((28, 28), 255, np.uint8)), expected)


def test_the_box_is_that_of_the_ink():
    """Enlarged ink fades where it ends: the edge is where half is left."""
    digit = np.zeros((28, 28), np.uint8)
    digit[9:19, 12:16] = 255
    np.testing.assert_array_equal(ink_boxes(digit[None]), [[12, 9, 16, 19]])
    field = one(digit)
    np.testing.assert_array_equal(np.flatnonzero(field.max(axis=0) > 127), np.arange(10, 30))
    np.testing.assert_array_equal(np.flatnonzero(field.max(axis=1) > 127), np.arange(20, 45))


def test_where_digits_overlap_values_are_added_up_to_white():
    boxes = np.array([[[0, 0, 20, 20], [10, 0, 30, 20]]])
    for grey, both in ((100, 200), (200, 255)):
        field = paint(np.full((1, 2, 28, 28), grey, np.uint8), boxes)[0]
        np.testing.assert_array_equal(field[5, [0, 9, 10, 19, 20, 29, 30]], [grey, grey, both, both, grey, grey, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paint(np.ones((1, 28, 28), np.uint8), BOX[None]), r"paint: expected images of uint8 \(N, n, H, W\)"),
        (lambda: paint(np.ones((1, 1, 28, 28)), BOX[None, None]), "got float64"),
        (
            lambda: paint(np.ones((1, 2, 28, 28), np.uint8), BOX[None, None]),
            r"paint: expected boxes of shape \(1, 2, 4\), got \(1, 1, 4\)",
        ),
        (lambda: one(np.zeros((28, 28), np.uint8)), "ink_boxes: expected ink in each image, got none in 0"),
        (
            lambda: fields(np.ones((1, 28, 28), np.uint8), np.zeros(1, int), 1, 0, np.random.default_rng(0)),
            "fields: expected digits to be at least 1, got 0",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_canvas_of_the_network_is_that_of_the_data():
    from ministn.models import detection

    assert detection.CANVAS == field_of_digits.CANVAS
