"""Formulas as MathML, which browsers draw and screen readers speak by themselves: no script, no font, no network.

docutils brings the translation from TeX; it lacks a few commands that GitHub's renderer knows and the READMEs use.
"""

from __future__ import annotations

import re
from html import escape

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

_INSTEAD = [
    (r"\\dots(?![a-z])", r"\\ldots "),
    (r"\\tag\{(\w+)\}", r"\\qquad (\1)"),
    (r"\\[bB]ig(?![a-z])", ""),
    (r"\\tfrac(\w)(\w)", r"\\tfrac{\1}{\2}"),
]
_FENCE = r"(\\left|\\right|\\[bB]ig[lr]?)?\\[lr](?:floor|angle)(?![a-z])"
_log = logging.getLogger(__name__)


def mathml(tex: str, block: bool) -> str:
    """The formula as HTML.

    Raises
    ------
    MathError
        If docutils does not know a command, or gets it wrong.
    """
    if r"\underbrace" in tex:
        raise MathError("docutils sets the text under a brace beside it")
    grows = iter(re.findall(_FENCE, tex))  # docutils lets these always grow, and ( after \left only
    for pattern, replacement in _INSTEAD:
        tex = re.sub(pattern, replacement, tex)
    tex = re.sub(r"\\text\{[^}]*\}", lambda text: text[0].replace(r"\_", "_"), tex)
    html = tex2mathml(tex, as_block=block)
    return re.sub("<mo>(?=[⌊⌋⟨⟩])", lambda mo: mo[0] if next(grows, "") else '<mo stretchy="false">', html)


def _visit(translator: object, node: nodes.Element, block: bool) -> None:
    tex = node.astext()
    try:
        html = mathml(tex, block)
    except MathError as error:
        _log.warning("formula %r: %s", tex, error, location=node)  # an error with -W
        html = f"<code>{escape(tex)}</code>"
    translator.body.append(f'<div class="math">{html}</div>' if block else html)  # type: ignore[attr-defined]
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(lambda translator, node: _visit(translator, node, block=False), None),
        block_renderers=(lambda translator, node: _visit(translator, node, block=True), None),
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
