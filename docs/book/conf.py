"""The book: `make book` makes a static site of the notebooks as they are committed; nothing is executed.

Sphinx reads the project where it lies, from its root; sphinx-apidoc has written a page for each package. Formulas are
set by MathJax, which a page fetches from the internet; everything else in it is local.
"""

import re

project = "DRÆM on woven fabric"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/book/index"
include_patterns = ["*.md", "docs/**", "notebooks/**", "data/README.md", "checkpoints/*.md", "benchmarks/*.md"]
exclude_patterns = ["**/.ipynb_checkpoints"]

suppress_warnings = ["ref.python"]  # a public name is found both in the package and in its module

nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

default_role = "code"  # docstrings have single backticks
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["static"]
html_css_files = ["book.css"]
html_extra_path = ["index.html"]  # leads to the root document
html_copy_source = False
html_theme_options = {"use_download_button": False}  # of a page's source, which is not copied


def book_anchors(app, name, source):
    """JupyterLab's anchors keep capitals and commas, the book's do not."""
    if name.startswith("notebooks/"):
        source[0] = re.sub(r"(?<=\]\(#)[^)]+", lambda link: re.sub(r"[^\w-]", "", link[0].lower()), source[0])


def setup(app):
    app.connect("source-read", book_anchors)
