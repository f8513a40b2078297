"""Pictures of what a Spatial Transformer Network learns.

Each function returns a `matplotlib.figure.Figure`:

>>> figure = learning_curves(history, data="MNIST")  # doctest: +SKIP
>>> figure.savefig("learning_curves.png")  # doctest: +SKIP

Matplotlib is imported by the first picture, not by this package; no window is opened and no global state is touched.
Colours are those of Okabe and Ito, which readers with any form of colour blindness can tell apart.
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

__all__ = [
    "BLUE",
    "GREY",
    "GRID_COLOUR",
    "PARTS",
    "TOP_COLOUR",
    "VERMILION",
    "contact_sheet",
    "decompose",
    "hardest_mistakes",
    "learning_curves",
    "sampling_grid",
    "theta_over_training",
    "warped_digits",
]
