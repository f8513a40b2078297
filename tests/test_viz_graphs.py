"""The drawing of a computation graph, read back as XML."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

import numpy as np
import pytest

import ministn.functional as F
from ministn import tensor, viz
from ministn.models import MnistSTN

SVG = "{http://www.w3.org/2000/svg}"


def read(svg: str):
    """The nodes: kind and lines of text; the edges: from, to, label and whether it is dashed; and the root."""
    root = ElementTree.fromstring(svg)
    groups = [group for group in root if group.tag == f"{SVG}g"]
    nodes = {
        int(group.get("data-node")): (group.get("class").split()[1], [text.text for text in group.iter(f"{SVG}text")])
        for group in groups
        if group.get("class").startswith("node")
    }
    edges = {
        (int(group.get("data-from")), int(group.get("data-to"))): (
            group.find(f"{SVG}text").text,
            group.find(f"{SVG}path").get("stroke-dasharray") is not None,
        )
        for group in groups
        if group.get("class") == "edge"
    }
    return nodes, edges, root


def test_a_small_expression():
    w, x = tensor([[1.0, 2], [3, 4]], requires_grad=True), tensor([[1.0], [2]])
    v = w @ x + 1.5
    nodes, edges, root = read(viz.computation_graph((v * v).sum(), {"w": w, "x": x, "v": v}, title="a < b"))
    assert nodes == {
        0: ("leaf", ["w"]),
        1: ("constant", ["x"]),
        2: ("constant", ["1.5"]),
        3: ("function", ["MatMul"]),
        4: ("function", ["Add"]),
        5: ("function", ["Multiply"]),
        6: ("function", ["Sum"]),
        7: ("output", ["output"]),
    }
    assert edges == {
        (0, 3): ("2 × 2", False),
        (1, 3): ("2 × 1", True),
        (3, 4): ("2 × 1", False),
        (2, 4): ("scalar", True),
        (4, 5): ("v: 2 × 1, 2 times", False),
        (5, 6): ("2 × 1", False),
        (6, 7): ("scalar", False),
    }
    assert root.find(f"{SVG}title").text == "Computation graph: a < b"
    assert root.find(f"{SVG}desc").text == (
        "1: w. 2: x. 3: 1.5. 4: MatMul of 1: w (2 × 2), 2: x (2 × 1). 5: Add of 4: MatMul (2 × 1), 3: 1.5 (scalar). "
        "6: Multiply of 5: Add (v: 2 × 1, 2 times). 7: Sum of 6: Multiply (2 × 1). 8: output of 7: Sum (scalar)."
    )


def test_what_is_read_twice_has_one_box_and_two_edges():
    x = tensor([1.0, 2, 3], requires_grad=True)
    y = x.exp()
    nodes, edges, _ = read(viz.computation_graph((y.sin() - y) / y.sum(), {"x": x}))
    names = [lines[0] for _, lines in nodes.values()]
    assert names == ["x", "Exp", "Sin", "Subtract", "Sum", "Divide", "output"]
    assert sorted(edges) == [(0, 1), (1, 2), (1, 3), (1, 4), (2, 3), (3, 5), (4, 5), (5, 6)]
    assert not any(dashed for _, dashed in edges.values())


def boxes(root):
    """(left, top, right, bottom) of each node, and of each label as wide as the layout takes it to be."""
    for rect in root.findall(f"{SVG}g/{SVG}rect"):
        x, y, width, height = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
        yield x, y, x + width, y + height
    for text in root.findall(f"{SVG}g[@class='edge']/{SVG}text"):
        x, y, half = float(text.get("x")), float(text.get("y")), 7 * len(text.text) / 2
        yield x - half, y - 12, x + half, y + 4


@pytest.fixture(scope="module")
def of_mnist_stn():
    model, images = MnistSTN(dropout=0.0), tensor(np.zeros((4, 1, 28, 28), np.float32))
    return read(viz.computation_graph(model(images), {"images": images}, model, title="MnistSTN"))


def test_a_model_has_its_parameters_in_the_boxes(of_mnist_stn):
    nodes, edges, _ = of_mnist_stn
    assert [kind for kind, _ in nodes.values()] == ["constant", *["function"] * (len(nodes) - 2), "output"]
    written = [line for _, lines in nodes.values() for line in lines[1:]]
    expected = dict(MnistSTN().named_parameters())
    assert len(written) == len(expected)
    for name, parameter in expected.items():
        assert f"{name}  {' × '.join(map(str, parameter.shape))}" in written
    (transform,) = (number for number, (_, lines) in nodes.items() if lines[0] == "SpatialTransform")
    into = {source: label for (source, target), label in edges.items() if target == transform}
    assert into[0] == ("4 × 1 × 28 × 28", True)  # the images, once more: no gradient is wanted there
    assert sorted(into.values()) == [("4 × 1 × 28 × 28", True), ("4 × 2 × 3", False)]
    assert nodes[1] == ("function", ["Conv2d", "localization.0.weight  8 × 1 × 7 × 7", "localization.0.bias  8"])


def test_nothing_covers_anything_else(of_mnist_stn):
    x = tensor([1.0, 2, 3], requires_grad=True)
    y = x.exp() + x.sin() * x.cos() - x.tanh() / (x * x + 1.0)
    for root in (of_mnist_stn[2], read(viz.computation_graph(y.sum()))[2]):
        width, height = float(root.get("width")), float(root.get("height"))
        places = list(boxes(root))
        for left, top, right, bottom in places:
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
        for a, b in itertools.combinations(places, 2):
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)


def test_inputs_stand_in_their_order_and_above_what_reads_them():
    a, b = tensor(2.0, requires_grad=True), tensor(3.0, requires_grad=True)
    for output, names in ((a - b, ["a", "b"]), (b - a, ["b", "a"]), (a - b.exp(), ["a", "b"])):
        *_, root = read(viz.computation_graph(output, {"a": a, "b": b}))
        x, y = {}, {}
        for group in root.findall(f"{SVG}g"):
            if group.get("data-node"):
                text = group.find(f"{SVG}text")
                x[text.text], y[text.text] = float(text.get("x")), float(text.get("y"))
        assert sorted("ab", key=x.get) == names
        assert max(y["a"], y["b"]) < y["Subtract"] < y["output"]


def test_no_graph():
    x = tensor([1.0, 2], requires_grad=True)
    with pytest.raises(ValueError, match="computation_graph: expected a Tensor that recorded operations have made"):
        viz.computation_graph(x)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="the graph was freed"):
        viz.computation_graph(y)


def test_a_long_chain_needs_no_recursion():
    x = tensor(1.0, requires_grad=True)
    y = x
    for _ in range(1100):  # Python's limit is 1000
        y = F.sin(y)
    nodes, _, _ = read(viz.computation_graph(y))
    assert len(nodes) == 1102
