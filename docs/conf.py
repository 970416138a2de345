"""Sphinx builds the site from these pages: `make site`."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

from docutils import nodes
from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

sys.path.insert(0, str(Path(__file__).resolve().parent))
import reference

import tessera_onnx

project = "tessera-onnx"
author = "the authors of tessera-onnx"
project_copyright = f"{author}. Licence: Apache-2.0"
release = version = installed_version("tessera-onnx")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_js_files = ["site.js"]
html_title = f"tessera-onnx {release}"
html_show_sphinx = False
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"  # prompts and output are not copied
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks are stored with their output: notebooks/make.py
default_role = "code"  # docstrings are Markdown in that
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
# The types in signatures belong to NumPy, the standard library and private modules, which have no
# page here, and the site is built without a network.
nitpick_ignore_regex = [
    ("py:class", r".*"),
    ("py:data", r".*"),
]


def resolve_public(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Element
) -> Element | None:
    """Link the bare name of a public class or error, as docstrings write it, to its entry."""
    name = node.get("reftarget", "").rpartition(".")[2]
    if node.get("refdomain") != "py" or name not in tessera_onnx.__all__:
        return None
    return env.domains["py"].resolve_xref(
        env, node["refdoc"], app.builder, "obj", f"tessera_onnx.{name}", node, contnode
    )


def link_files(app: Sphinx, doctree: nodes.document) -> None:
    """Link a page of the root to its page here; other files of the root lie outside of the site."""
    for node in list(doctree.findall(pending_xref)):
        target = node.get("reftarget", "")
        if node.get("reftype") != "myst" or not (app.srcdir.parent / target).is_file():
            continue
        name = target.removesuffix(".md").lower()
        if name in app.env.found_docs:
            page = pending_xref(
                "", *node.children, reftype="doc", refdomain="std", refexplicit=True
            )
            page["reftarget"], page["refdoc"] = f"/{name}", app.env.docname
            node.replace_self(page)
        else:
            node.replace_self(node.children)


def keep_colons(
    _app: Sphinx, what: str, _name: str, _obj: object, _options: object, lines: list[str]
) -> None:
    """Begin the docstring of a property with an empty comment.

    Without it Napoleon takes what stands before the first colon for the property's type.
    """
    if what == "property":
        lines[:0] = ["..", ""]


def setup(app: Sphinx) -> None:
    """Write the reference before the pages are read."""
    app.connect("builder-inited", lambda app: reference.write(Path(app.srcdir) / "reference"))
    app.connect("doctree-read", link_files)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # Napoleon has 500
    app.connect("missing-reference", resolve_public)
