# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of Sphinx for the documentation's site. tools/docs/__init__.py writes the sources and runs it."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from pygments.lexers.special import TextLexer

project = "pullthrough.registry_cache"
project_copyright = "the pullthrough.registry_cache authors"
html_title = "registry_cache"

extensions = ["myst_parser", "sphinx_antsibull_ext"]
# Anchors of headings as GitHub makes them.
myst_heading_anchors = 6
myst_enable_extensions = ["html_image"]

html_theme = "furo"
html_favicon = "favicon.svg"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
antsibull_ext_color_scheme = "default-autodark"
html_copy_source = False
html_use_index = False
# Quotes and dashes are often part of a command.
smartquotes = False
nitpicky = True

_ANSIBLE = "https://docs.ansible.com/projects/ansible/latest/"
# Labels of Ansible's documentation, to which antsibull-docs refers. Its own list of labels would need the network.
_LABELS = {
    "action_plugins": "plugins/action.html",
    "ansible_configuration_settings": "reference_appendices/config.html",
    "common_return_values": "reference_appendices/common_return_values.html",
}


def _ansible(_app: object, _env: object, node: Any, content: nodes.Node) -> nodes.Node | None:
    """The link to a page of Ansible's documentation, for a label or a plugin that this site does not have."""
    label = node["reftarget"]
    page = _LABELS.get(label)
    if plugin := re.fullmatch(r"ansible_collections\.(?!pullthrough\.)(\w+)\.(\w+)\.(\w+_[a-z]+)", label):
        page = "collections/{}/{}/{}.html".format(*plugin.groups())
    return nodes.reference("", "", content, internal=False, refuri=_ANSIBLE + page) if page else None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", _ansible)
    # GitHub draws such a block, the site shows its source.
    app.add_lexer("mermaid", TextLexer)
