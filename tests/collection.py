# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes `ansible_collections.*` importable from a clone in a folder of any name."""

from __future__ import annotations

import site

from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

from sandbox.settings import ROOT


def install() -> None:
    _AnsibleCollectionFinder(paths=[str(ROOT / "playbooks" / "collections"), *site.getsitepackages()])._install()
