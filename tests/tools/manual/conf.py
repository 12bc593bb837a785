# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How Sphinx makes the site; tests/tools/docs.py lays out what it reads."""

from __future__ import annotations

from pathlib import Path

project = "selfhosted.llm_stack"
html_title = "selfhosted.llm_stack"
extensions = ["myst_parser", "sphinx_antsibull_ext"]
myst_heading_anchors = 3
# A word between single marks is a word, where antsibull-docs does not say that it is more.
default_role = "literal"
html_theme = "furo"
pygments_style = "default"
pygments_dark_style = "github-dark"
html_static_path = [str(Path(__file__).with_name("static"))]
html_css_files = ["manual.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_use_index = False
# No date and no time: the same sources are the same site.
html_last_updated_fmt = None
