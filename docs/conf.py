"""How Sphinx builds the documentation: Markdown pages, docstrings, nothing from outside.

sphinx-build -W docs _site        # or `make docs`
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from mri_unroll import __version__

project = "mri_unroll"
author = "The mri_unroll developers"
copyright = "The mri_unroll developers, Apache-2.0"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "site_math",
    "site_reference",
]
exclude_patterns = ["_site"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # links to headings, made as GitHub makes them

autodoc_default_options = {"members": True, "show-inheritance": False}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "separated"
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"mri_unroll {version}"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]
