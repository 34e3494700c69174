"""conf.py: how Sphinx builds the documentation; run by ./dev docs."""

from __future__ import annotations

import sys
from pathlib import Path

import attn
from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

DOCS = Path(__file__).resolve().parent
WORK = DOCS.parent / "build" / "docs-work"  # what other tools made for these pages
sys.path.insert(0, str(DOCS))

project = "attn"
author = "the authors of attn"
copyright = author
release = version = attn.__version__

extensions = [
    "breathe",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "tested",
]

# Pages.
html_theme = "furo"
html_title = f"attn {release}"
html_css_files = ["style.css"]
html_static_path = ["style.css"]
html_extra_path = [str(WORK / "extra")]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
highlight_language = "none"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
toc_object_entries = False
# What pages refer to must be there; not so what signatures and docstrings mention.
nitpicky = True
nitpick_ignore_regex = [(kind, ".*") for kind in ("c:identifier", "cpp:identifier", "py:class")]

# Python's reference. Types are in the text.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
default_role = "code"

# C's and C++'s reference, which Doxygen read.
breathe_projects = {"attn": str(WORK / "doxygen" / "xml")}
breathe_default_project = "attn"
breathe_default_members = ("members", "undoc-members")
breathe_show_enumvalue_initializer = True
breathe_show_include = False
breathe_domain_by_extension = {"h": "c", "hpp": "cpp"}


def visit_math(translator: HTML5Translator, node: nodes.math) -> None:
    """Formulas as MathML, which browsers draw by themselves, without a script or the network."""
    as_block = isinstance(node, nodes.math_block)
    translator.body.append(latex2mathml.tex2mathml(node.astext(), as_block=as_block))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
