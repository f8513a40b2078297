"""Boxes by hand; what an anchor is for; that the loss is that of the right anchors; what the networks can know."""

import numpy as np
import pytest

import ministn
from ministn import Tensor, no_grad
from ministn.models import BoxRegressor, RegionProposalNetwork, detection
from ministn.models.detection import anchors, decode, encode, iou, non_maximum_suppression, proposal_loss, targets

CELLS, PER_CELL = 16, 9


def number(i, j, k):
    """Of the anchor k of the cell in row i and column j."""
    return (i * CELLS + j) * PER_CELL + k


def random_boxes(*shape):
    corner = np.random.default_rng(0).uniform(0, 39, (*shape, 2))
    return np.concatenate([corner, corner + np.random.default_rng(1).uniform(15, 25, (*shape, 2))], axis=-1)


def random_images(count):
    return Tensor(np.random.default_rng(0).random((count, 1, 64, 64), np.float32))


# --- boxes --------------------------------------------------------------------------------------------------------


def test_anchors_by_hand():
    assert anchors().shape == (CELLS * CELLS * PER_CELL, 4)
    np.testing.assert_array_equal(anchors()[number(0, 0, 0)], [-5.5, -5.5, 9.5, 9.5])  # 15 x 15 around (2, 2)
    np.testing.assert_array_equal(anchors()[number(0, 0, 1)], [-5.5, -8, 9.5, 12])  # 15 wide, 20 high
    np.testing.assert_array_equal(anchors()[number(3, 5, 7)], [9.5, 4, 34.5, 24])  # 25 wide, 20 high around (22, 14)


def test_encode_and_decode_by_hand():
    anchor, box = np.array([10.0, 10, 30, 20]), np.array([20.0, 12, 30, 22])
    deltas = encode(box, anchor)  # centre (20, 15) to (25, 17), sides (20, 10) to (10, 10)
    np.testing.assert_allclose(deltas, [5 / 20, 2 / 10, np.log(1 / 2), 0], rtol=1e-15)
    np.testing.assert_allclose(decode(deltas, anchor), box, rtol=1e-15)
    np.testing.assert_array_equal(decode(np.zeros(4), anchors()[0]), [0, 0, 9.5, 9.5])  # what sticks out is cut
    np.testing.assert_array_equal(decode(np.array([0, 0, 800, 800.0]), anchor), [0, 0, 64, 64])  # no overflow


def test_decode_undoes_encode():
    boxes = random_boxes(50, 1)
    np.testing.assert_allclose(
        decode(encode(boxes, anchors()), anchors()), np.broadcast_to(boxes, (50, 2304, 4)), atol=1e-12
    )


def test_iou_by_hand():
    square = np.array([[0.0, 0, 10, 10]])
    others = np.array(
        [[0, 0, 10, 10], [5, 0, 15, 10], [2, 3, 7, 7], [10, 0, 20, 10], [30, 30, 40, 40], [-5, -5, 5, 5], [4, 4, 4, 4]]
    )
    expected = [1, 50 / 150, 20 / 100, 0, 0, 25 / 175, 0]
    np.testing.assert_allclose(iou(square, others), [expected], rtol=1e-15)
    np.testing.assert_allclose(iou(others, square)[:, 0], expected, rtol=1e-15)
    np.testing.assert_array_equal(iou(others[-1:], others[-1:]), 0)
    stacked = iou(np.stack([square, square + 1]), np.stack([others[:3], others[:3] + 1]))
    np.testing.assert_allclose(stacked, [[expected[:3]]] * 2, rtol=1e-14)


def test_non_maximum_suppression_by_hand():
    """Overlaps: 0 and 1 by 80 / 100, 0 and 2 by 50 / 150, 1 and 2 by 40 / 140, 3 with none."""
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 8], [5, 0, 15, 10], [40, 40, 50, 50]])
    scores = np.array([0.9, 0.8, 0.95, -3])
    for threshold, expected in ((0.9, [2, 0, 1, 3]), (0.5, [2, 0, 3]), (0.3, [2, 1, 3]), (0.2, [2, 3])):
        np.testing.assert_array_equal(non_maximum_suppression(boxes, scores, threshold, 10), expected)
    np.testing.assert_array_equal(non_maximum_suppression(boxes, scores, 0.9, 2), [2, 0])


def test_proposals_are_the_best_boxes_moved_by_their_deltas():
    boxes = random_boxes(2, 2)
    output = np.zeros((2, 2304, 5))
    chosen = number(2, 3, 0), number(12, 13, 4)
    for image in range(2):
        for score, (anchor, box) in enumerate(zip(chosen, boxes[image], strict=True), 1):
            output[image, anchor] = [score, *encode(box, anchors()[anchor])]
    assert (iou(boxes, boxes)[:, 0, 1] < 0.5).all()  # neither sends off the other
    np.testing.assert_allclose(detection.proposals(output, 2), boxes[:, ::-1], atol=1e-12)
    output[..., 3:] = 800  # as large as can be: all boxes are the canvas, and one is left
    np.testing.assert_array_equal(detection.proposals(output, 2)[0], [[0, 0, 64, 64], [0, 0, 0, 0]])


# --- what is learnt -----------------------------------------------------------------------------------------------


def test_what_anchors_are_for():
    digit = anchors()[number(8, 8, 4)]  # 20 x 20 around (34, 34)
    tiny = np.array([9.0, 5, 13, 9])  # around (11, 7): no anchor overlaps with it by half
    kinds, owners = targets(np.stack([digit, tiny])[None])
    kinds, owners = kinds[0], owners[0]
    assert (kinds[number(8, 8, 4)], owners[number(8, 8, 4)]) == (1, 0)
    assert kinds[number(8, 9, 4)] == 1  # 4 pixels to the right: 320 / 480
    assert kinds[number(9, 9, 4)] == -1  # 256 / 544
    assert kinds[number(8, 11, 4)] == 0  # 160 / 640
    assert kinds[number(0, 15, 0)] == 0
    closest = iou(tiny[None], anchors())[0].argmax()
    assert iou(tiny[None], anchors()).max() < 0.3
    assert (kinds[closest], owners[closest]) == (1, 1)
    assert (kinds[owners == 1] == 1).sum() == 1


def perfect(boxes):
    kinds, owners = targets(boxes)
    deltas = encode(np.take_along_axis(boxes, owners[..., None], axis=1), anchors())
    return np.concatenate([np.where(kinds == 1, 50.0, -50.0)[..., None], deltas], axis=2)


def test_the_loss_by_hand():
    boxes = random_boxes(3, 2)
    right = perfect(boxes)
    assert proposal_loss(Tensor(right), boxes).item() < 1e-10
    undecided = right * [0, 1, 1, 1, 1]
    np.testing.assert_allclose(proposal_loss(Tensor(undecided), boxes).item(), np.log(2), rtol=1e-12)
    wrong = right * [-1, 1, 1, 1, 1]
    np.testing.assert_allclose(proposal_loss(Tensor(wrong), boxes).item(), 50, rtol=1e-12)
    moved = right + np.array([0, 1, 0, -2, 0])  # smooth L1: 1 - 1/18 and 2 - 1/18
    np.testing.assert_allclose(proposal_loss(Tensor(moved), boxes).item(), 3 - 2 / 18, rtol=1e-12)


def test_gradients_reach_the_anchors_that_count():
    boxes = random_boxes(3, 2)
    kinds, _ = targets(boxes)
    assert set(np.unique(kinds)) == {-1, 0, 1}
    output = Tensor(perfect(boxes) * [0, 1, 1, 1, 1] + [0, 1, 1, 1, 1], requires_grad=True)
    proposal_loss(output, boxes).backward()
    grad = output.grad.numpy()
    np.testing.assert_array_equal(grad[..., 0] != 0, kinds != -1)
    np.testing.assert_array_equal((grad[..., 1:] != 0).all(axis=2), kinds == 1)
    np.testing.assert_array_equal((grad[..., 1:] != 0).any(axis=2), kinds == 1)
    np.testing.assert_allclose(grad[kinds == 1, 0].sum(), -0.25, rtol=1e-12)  # half of sigmoid(0) - 1
    np.testing.assert_allclose(grad[kinds == 0, 0].sum(), 0.25, rtol=1e-12)


# --- networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [RegionProposalNetwork, BoxRegressor])
def test_layers_differ_in_the_coordinates_alone(network):
    """Two more channels for 5 x 5 x width, for 3 x 3 x 32 and, where proposals are moved, for 36."""
    conv, coordconv = ({n: p.shape for n, p in network(layer, 16).named_parameters()} for layer in detection.LAYERS)
    more = {name: np.prod(coordconv[name]) - np.prod(conv[name]) for name in conv if coordconv[name] != conv[name]}
    expected = {"features.0.weight": 2 * 25 * 16, "features.6.weight": 2 * 9 * 32, "boxes.2.weight": 2 * 36}
    assert more == {name: value for name, value in expected.items() if name in conv}


@pytest.mark.parametrize("layer", detection.LAYERS)
def test_the_order_of_anchors_is_that_of_the_output(layer):
    ministn.manual_seed(0)
    model = RegionProposalNetwork(layer, width=4)
    ministn.nn.init.normal_(model.boxes[-1].weight)
    ministn.nn.init.normal_(model.boxes[-1].bias)
    with no_grad():
        images = random_images(2)
        output, features = model(images).numpy(), model.features(images)
        scores, deltas = model.scores(features).numpy(), model.boxes(features).numpy()
    assert output.shape == (2, 2304, 5)
    for i, j, k in ((0, 0, 0), (3, 11, 5), (15, 2, 8)):
        assert output[1, number(i, j, k), 0] == scores[1, k, i, j]
        np.testing.assert_array_equal(output[1, number(i, j, k), 1:], deltas[1, 4 * k : 4 * k + 4, i, j])


def test_the_first_boxes_are_the_anchors():
    with no_grad():
        output = RegionProposalNetwork("coordconv", width=4)(random_images(1)).numpy()
    np.testing.assert_array_equal(output[..., 1:], 0)
    assert output[..., 0].std() > 0


@pytest.mark.parametrize("layer", detection.LAYERS)
def test_only_coordinates_say_where_a_digit_is(layer):
    """A digit that moves by whole cells, and keeps away from the border, is the same to a maximum over convolutions."""
    ministn.manual_seed(0)
    model = BoxRegressor(layer, width=4)
    images = np.zeros((2, 1, 64, 64), np.float32)
    images[0, 0, 20:32, 16:28] = images[1, 0, 24:36, 32:44] = np.random.default_rng(0).random((12, 12))
    with no_grad():
        first, second = model(Tensor(images)).numpy()
    assert first.shape == (1, 4)
    if layer == "conv":
        np.testing.assert_array_equal(first, second)
    else:
        assert (first != second).all()


def test_bad_layer():
    with pytest.raises(ValueError, match="RegionProposalNetwork: expected layer to be one of 'conv', 'coordconv'"):
        RegionProposalNetwork("dense")
