"""Formulas as MathML, which browsers set by themselves: an extension of Sphinx.

Sphinx' own way is MathJax, a script of 2 MB that every page would load. Docutils converts TeX.
"""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.logging import getLogger

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

_LOG = getLogger(__name__)
_BAR = re.compile(
    r"<mo(?: class=\"\w+\"| stretchy=\"false\")?>(?=[|‖]</mo>)"
)  # would grow with what stands beside it
_BIG = re.compile(r"(\\[bB]igg?)(?![a-zA-Z])")  # docutils knows them with l or r only


def setup(app: Sphinx) -> dict[str, bool]:
    """Make ``html_math_renderer: mathml`` known."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def mathml(node: nodes.Element, *, as_block: bool) -> str:
    """A formula's MathML; where docutils cannot read it, a warning of Sphinx and its TeX."""
    tex = _BIG.sub(r"\1l", node.astext().strip())
    try:
        made = tex2mathml(tex, as_block=as_block)
        return _BAR.sub('<mo stretchy="false" lspace="0" rspace="0">', made)
    except MathError as error:
        _LOG.warning("formula %r: %s", node.astext(), error, location=node)
        return escape(node.astext())


def _inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(f'<span class="math">{mathml(node, as_block=False)}</span>')
    raise nodes.SkipNode


def _block(translator: HTML5Translator, node: nodes.math_block) -> None:
    begin = translator.starttag(node, "div", CLASS="math")
    translator.body.append(f"{begin}{mathml(node, as_block=True)}</div>\n")
    raise nodes.SkipNode
