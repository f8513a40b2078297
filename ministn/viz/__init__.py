"""Pictures of what a Spatial Transformer Network learns.

A function returns a `matplotlib.figure.Figure`, only `warp_animation` writes a file:

>>> figure = learning_curves(history, data="MNIST")  # doctest: +SKIP
>>> figure.savefig("learning_curves.png")  # doctest: +SKIP

Matplotlib is imported by the first picture, not by this package; no window is opened and no global state is touched.
Colours are those of Okabe and Ito, which readers with any form of colour blindness can tell apart.

`pictures` are of a trained model, or of the tables that a run writes; those of a `Watch` show how a transformer
learns.
"""

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
    "TOP_COLOUR",
    "VERMILION",
    "Watch",
    "before_and_after",
    "class_means",
    "contact_sheet",
    "decompose",
    "hardest_mistakes",
    "learning_curves",
    "mean_images",
    "sampling_grid",
    "theta_over_training",
    "warp_animation",
    "warped_digits",
]
