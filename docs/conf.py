"""The site: ``python -m sphinx -W --keep-going docs docs/_build/html``. Nothing is fetched to build or to read it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_HERE = Path(__file__).parent
sys.path.insert(0, str(_HERE / "_ext"))
# For the cells. One thread: their numbers are the same with any number of them, and builds often share a machine.
os.environ["NUMBA_NUM_THREADS"] = "1"
os.environ["MATPLOTLIBRC"] = str(_HERE / "_ext")
os.environ["PYTHONPATH"] = os.pathsep.join([str(_HERE / "_ext"), str(_HERE.parent), os.environ.get("PYTHONPATH", "")])

project = "ministn"
author = copyright = "The ministn authors"
language = "en"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "mathml",
    "sources",
]
exclude_patterns = ["_build", "_ext", "results"]
nitpicky = True
nitpick_ignore_regex = [("py:class", ".*")]  # docstrings say types in words: "float32 array, shape (P,)"

# --- pages ---

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_url_schemes = ["http", "https", "mailto", "source"]
suppress_warnings = ["myst.header"]  # an included README starts at a lower level than the page
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # the first build compiles the kernels

# --- the API reference ---

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say types and shapes
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_param = False
napoleon_use_ivar = True

# --- how it looks ---

html_theme = "furo"
html_title = "ministn"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
