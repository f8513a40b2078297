"""Pictures of what a Spatial Transformer Network learns.

A function returns a `matplotlib.figure.Figure`; `computation_graph` returns SVG, and `warp_animation` writes a file:

>>> figure = learning_curves(history, data="MNIST")  # doctest: +SKIP
>>> figure.savefig("learning_curves.png")  # doctest: +SKIP

Matplotlib is imported by the first picture, not by this package; no window is opened and no global state is touched.
Colours are those of Okabe and Ito, which readers with any form of colour blindness can tell apart.

`pictures` are of a trained model, or of the tables that a run writes; those of a `Watch` show how a transformer
learns. What gradients see is drawn by three more: the loss as a `landscapes`, one pixel's `flow`, and the recorded
`graphs`.
"""

from ministn.viz.flow import PixelGradients, gradient_flow, pixel_gradients
from ministn.viz.graphs import computation_graph
from ministn.viz.landscapes import (
    POSE,
    Basin,
    Landscape,
    PoseLoss,
    basin,
    blurred,
    classification_loss,
    descend,
    landscape,
    loss_landscape,
    matching_loss,
    measure_basin,
    multi_sampled,
)
from ministn.viz.pictures import (
    BLUE,
    GREY,
    GRID_COLOUR,
    PARTS,
    TOP_COLOUR,
    VERMILION,
    contact_sheet,
    decompose,
    hardest_mistakes,
    learning_curves,
    sampling_grid,
    theta_over_training,
    warped_digits,
)
from ministn.viz.watch import Watch, class_means
from ministn.viz.watched import before_and_after, mean_images, warp_animation

__all__ = [
    "BLUE",
    "GREY",
    "GRID_COLOUR",
    "PARTS",
    "POSE",
    "TOP_COLOUR",
    "VERMILION",
    "Basin",
    "Landscape",
    "PixelGradients",
    "PoseLoss",
    "Watch",
    "basin",
    "before_and_after",
    "blurred",
    "class_means",
    "classification_loss",
    "computation_graph",
    "contact_sheet",
    "decompose",
    "descend",
    "gradient_flow",
    "hardest_mistakes",
    "landscape",
    "learning_curves",
    "loss_landscape",
    "matching_loss",
    "mean_images",
    "measure_basin",
    "multi_sampled",
    "pixel_gradients",
    "sampling_grid",
    "theta_over_training",
    "warp_animation",
    "warped_digits",
]
