"""The graph that the autodiff engine has recorded, as a drawing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

from ministn.autodiff import Function, Tensor
from ministn.nn import Module
from ministn.viz.pictures import BLUE, GREY, TOP_COLOUR

SIZE, LINE, LETTER = 12, 16, 7  # pixels: of the letters, from line to line, and at most from letter to letter
GAP_X, GAP_Y = 24, 9  # between what stands side by side, and from row to row


@dataclass
class _Node:
    """A Function, a leaf or the output: what stands in its box, and where."""

    kind: str  # "function", "leaf" (with a gradient), "constant" or "output"
    lines: list[str]
    inputs: dict[int, str] = field(default_factory=dict)  # number of a node -> label of the edge from there
    dashed: set[int] = field(default_factory=set)  # those along which no gradient comes back


@dataclass(eq=False)
class _Place:
    """What takes up room in a row: a box, the label of an edge, or an edge that passes by."""

    width: float
    height: float
    above: list[_Place] = field(default_factory=list)
    below: list[_Place] = field(default_factory=list)
    x: float = 0.0
    y: float = 0.0


def computation_graph(
    output: Tensor, names: Mapping[str, Tensor] | None = None, model: Module | None = None, *, title: str = ""
) -> str:
    """Draw how a Tensor was computed, downwards: a box for each Function, on each edge the shape of its Tensor.

    The backward sweep follows the same edges from the bottom to the top; along the dashed ones no gradient passes.

    Parameters
    ----------
    output : Tensor
        Computed from something that requires a gradient; before `backward`, which frees the graph.
    names : mapping of Tensor, optional
        Names for Tensors of the graph: leaves, or what is computed in between.
    model : Module, optional
        Its parameters are written into the boxes of the Functions that read them, and take no boxes of their own.
    title : str
        What this is the graph of.

    Returns
    -------
    str
        A SVG picture, with a title, and a description in words for those who do not see it.

    Raises
    ------
    ValueError
        If no operation was recorded.
    RuntimeError
        If the graph was freed.
    """
    nodes = _nodes(output, names or {}, dict(model.named_parameters()) if model else {})
    rows, boxes, edges = _rows(nodes)
    _place(rows)
    title = f"Computation graph: {title}" if title else "Computation graph"
    width = 12 + max(place.x + place.width / 2 for row in rows for place in row)
    height = 12 + boxes[-1].y + boxes[-1].height  # the output is the only one in the last row
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" style="max-width: 100%; height: auto" role="img" aria-label={quoteattr(title)} '
        f'font-family="system-ui, sans-serif" font-size="{SIZE}" text-anchor="middle">',
        f"<title>{escape(title)}</title>",
        f"<desc>{escape(_in_words(nodes))}</desc>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for (source, target), way in edges.items():
        parts += _edge(nodes, source, target, way)
    for number, (node, place) in enumerate(zip(nodes, boxes, strict=True)):
        parts += _box(number, node, place)
    return "\n".join([*parts, "</svg>", ""])


# --- what is drawn ------------------------------------------------------------------------------------------------


def _nodes(output: Tensor, names: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> list[_Node]:
    """The graph behind a Tensor; inputs come before what is made of them, the output last."""
    if output.creator is None:
        raise ValueError("computation_graph: expected a Tensor that recorded operations have made, got one without")
    called = {id(tensor): name for name, tensor in names.items()}
    inside = {id(tensor): name for name, tensor in parameters.items()}
    functions: dict[int, tuple[Tensor, Function]] = {}
    leaves: dict[int, Tensor] = {}
    waiting = [output]
    while waiting:
        tensor = waiting.pop()
        function = tensor.creator
        if function is None:
            leaves[id(tensor)] = tensor
        elif function.number not in functions:
            functions[function.number] = tensor, function
            waiting += [parent for parent in function.inputs if id(parent) not in inside]
    nodes: list[_Node] = []
    at: dict[int, int] = {}  # the node of a Tensor
    for key, tensor in reversed(leaves.items()):  # which the search has met from the last input to the first
        at[key] = len(nodes)
        kind = "leaf" if tensor.requires_grad else "constant"
        value = f"{tensor.item():g}" if tensor.numel() == 1 else kind
        nodes.append(_Node(kind, [called.get(key, value)]))
    for _, (tensor, function) in sorted(functions.items()):
        node = _Node("function", [type(function).__name__])
        for parent, count in _counted(function.inputs):
            if id(parent) in inside:
                node.lines.append(f"{inside[id(parent)]}  {_shape(parent)}")
                continue
            _connect(node, at[id(parent)], parent, called, count)
        at[id(tensor)] = len(nodes)
        nodes.append(node)
    last = _Node("output", [called.get(id(output), "output")])
    _connect(last, at[id(output)], output, {}, 1)
    return [*nodes, last]


def _counted(tensors: Sequence[Tensor]) -> list[tuple[Tensor, int]]:
    """Each Tensor once, and how often it is there."""
    keys = [id(tensor) for tensor in tensors]
    return [(tensor, keys.count(id(tensor))) for k, tensor in enumerate(tensors) if id(tensor) not in keys[:k]]


def _connect(node: _Node, source: int, tensor: Tensor, called: Mapping[int, str], count: int) -> None:
    name = f"{called[id(tensor)]}: " if tensor.creator is not None and id(tensor) in called else ""
    node.inputs[source] = f"{name}{_shape(tensor)}" + (f", {count} times" if count > 1 else "")
    if not tensor.requires_grad:
        node.dashed.add(source)


def _shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "scalar"


def _in_words(nodes: Sequence[_Node]) -> str:
    """The graph as a list: each Function with what it reads."""
    words = []
    for number, node in enumerate(nodes):
        inputs = [f"{_called(nodes, source)} ({label})" for source, label in node.inputs.items()]
        inputs += node.lines[1:]
        words.append(f"{_called(nodes, number)}" + (f" of {', '.join(inputs)}" if inputs else "") + ".")
    return " ".join(words)


def _called(nodes: Sequence[_Node], number: int) -> str:
    return f"{number + 1}: {nodes[number].lines[0]}"


# --- where it stands ----------------------------------------------------------------------------------------------


def _rows(nodes: Sequence[_Node]) -> tuple[list[list[_Place]], list[_Place], dict[tuple[int, int], list[_Place]]]:
    """Places in rows: nodes in even ones, each below all its inputs; edges in between, and past other nodes."""
    levels: list[int] = []
    for node in nodes:
        levels.append(1 + max((levels[source] for source in node.inputs), default=-1))
    for number, node in enumerate(nodes):  # a leaf stands right above the first one that reads it
        if not node.inputs:
            levels[number] = min(levels[k] for k, other in enumerate(nodes) if number in other.inputs) - 1
    rows: list[list[_Place]] = [[] for _ in range(2 * max(levels) + 1)]
    boxes = []
    for node, level in zip(nodes, levels, strict=True):
        boxes.append(_Place(LETTER * max(map(len, node.lines)) + 20, LINE * len(node.lines) + 10))
        rows[2 * level].append(boxes[-1])
    edges = {}
    for target, node in enumerate(nodes):
        for source, label in node.inputs.items():
            way = [boxes[source]]
            for row in range(2 * levels[source] + 1, 2 * levels[target]):
                first = len(way) == 1  # it carries the label
                way.append(_Place(LETTER * len(label) if first else 1, LINE if first else 0))
                rows[row].append(way[-1])
            way.append(boxes[target])
            for above, below in itertools.pairwise(way):
                above.below.append(below)
                below.above.append(above)
            edges[source, target] = way
    return rows, boxes, edges


def _place(rows: list[list[_Place]]) -> None:
    """Positions: few crossings by sorting each row by the mean of its neighbours, then as straight as there is room."""
    for row in rows:
        for number, place in enumerate(row):
            place.x = float(number)
    for sweep in range(8):
        for row, side in _sweep(rows, sweep):
            row.sort(key=lambda place: _wish(place, side))
            for number, place in enumerate(row):
                place.x = float(number)
    y = 12.0
    for row in rows:
        height = max(place.height for place in row)
        for place in row:
            place.y = y + (height - place.height) / 2
        y += height + GAP_Y
        _spread(row, [0.0] * len(row))
    for sweep in range(20):
        for row, side in _sweep(rows, sweep):
            _spread(row, [_mean(getattr(place, side), place.x) for place in row])
    for sweep in range(40):
        for row, _ in _sweep(rows, sweep):
            _spread(row, [_mean(place.above + place.below, place.x) for place in row])
    left = min(place.x - place.width / 2 for row in rows for place in row)
    for row in rows:
        for place in row:
            place.x += 12 - left


def _sweep(rows: list[list[_Place]], number: int) -> list[tuple[list[_Place], str]]:
    """The rows downwards, to look at what is above them, or upwards, to look at what is below."""
    return [(row, "above") for row in rows[1:]] if number % 2 == 0 else [(row, "below") for row in rows[-2::-1]]


def _wish(place: _Place, side: str) -> float:
    """The mean of the neighbours' numbers in their row; a bit further to the left for the first input of a box."""
    neighbours = place.above if side == "above" else place.below
    wishes = [n.x + (n.above.index(place) / len(n.above) if side == "below" else 0) for n in neighbours]
    return sum(wishes) / len(wishes) if wishes else place.x


def _mean(places: Sequence[_Place], otherwise: float) -> float:
    return sum(place.x for place in places) / len(places) if places else otherwise


def _spread(row: Sequence[_Place], wanted: Sequence[float]) -> None:
    """Put a row as near to what is wanted as its order and its widths allow, in the sense of least squares.

    Less the room that all to its left take, the positions must rise: pools of adjacent violators, with their means.
    """
    steps = [(left.width + right.width) / 2 + GAP_X for left, right in itertools.pairwise(row)]
    room = list(itertools.accumulate(steps, initial=0.0))
    pools: list[tuple[float, int]] = []  # a sum, and of how many
    for value, before in zip(wanted, room, strict=True):
        total, count = value - before, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            last, of = pools.pop()
            total, count = total + last, count + of
        pools.append((total, count))
    means = itertools.chain.from_iterable([total / count] * count for total, count in pools)
    for place, mean, before in zip(row, means, room, strict=True):
        place.x = mean + before


# --- how it looks -------------------------------------------------------------------------------------------------

_COLOURS = {  # inside, outline
    "function": ("#EAF3F9", BLUE),
    "leaf": ("#FDF3DF", TOP_COLOUR),
    "constant": ("#F2F2F2", GREY),
    "output": ("white", "black"),
}


def _box(number: int, node: _Node, place: _Place) -> list[str]:
    fill, stroke = _COLOURS[node.kind]
    left, radius = place.x - place.width / 2, 4 if node.kind == "function" else 13
    parts = [
        f'<g class="node {node.kind}" data-node="{number}"><rect x="{left:.1f}" y="{place.y:.1f}" '
        f'width="{place.width:.0f}" height="{place.height:.0f}" rx="{radius}" fill="{fill}" stroke="{stroke}"/>'
    ]
    for row, line in enumerate(node.lines):
        style = ' font-weight="bold"' if row == 0 else ' fill="#444"'
        parts.append(f'<text x="{place.x:.1f}" y="{place.y + 17 + LINE * row:.1f}"{style}>{escape(line)}</text>')
    return [*parts, "</g>"]


def _edge(nodes: Sequence[_Node], source: int, target: int, way: Sequence[_Place]) -> list[str]:
    """A curve that is vertical wherever it meets a row, an arrowhead, and the label on its way."""
    start, *between, end = way
    label = between[0]  # where the curve makes room for it
    points = [(_port(start, label.x), start.y + start.height), (label.x, label.y)]
    for place in between[1:]:
        points += [(place.x, place.y), (place.x, place.y + place.height)]
    x, y = _port(end, between[-1].x), end.y
    points.append((x, y - 5))
    path = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    for number, ((x0, y0), (x1, y1)) in enumerate(itertools.pairwise(points)):
        if number == 1:
            y0 = label.y + label.height
            path += f" M{x0:.1f},{y0:.1f}"
        middle = (y0 + y1) / 2
        path += f" C{x0:.1f},{middle:.1f} {x1:.1f},{middle:.1f} {x1:.1f},{y1:.1f}"
    dashes = ' stroke-dasharray="4 3"' if source in nodes[target].dashed else ""
    return [
        f'<g class="edge" data-from="{source}" data-to="{target}"><path d="{path}" fill="none" stroke="#555"{dashes}/>',
        f'<path d="M{x:.1f},{y:.1f} l-4,-7 h8 z" fill="#555"/>',
        f'<text x="{label.x:.1f}" y="{label.y + 12:.1f}" fill="#444">{escape(nodes[target].inputs[source])}</text></g>',
    ]


def _port(box: _Place, x: float) -> float:
    """Where an edge meets a box: right above or below its way, if the box is as wide."""
    return min(max(x, box.x - 0.4 * box.width), box.x + 0.4 * box.width)
