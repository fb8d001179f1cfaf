# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes `ansible_collections.*` importable from a clone in a directory of any name."""

from __future__ import annotations

import pathlib
import site

from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

ROOT = pathlib.Path(__file__).resolve().parents[2]

_AnsibleCollectionFinder(paths=[str(ROOT / "playbooks" / "collections"), *site.getsitepackages()])._install()
