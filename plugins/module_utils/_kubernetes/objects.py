# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects as the API server has them, of any kind.

Private to this collection.
"""

from __future__ import annotations

import typing as t

Item = t.Dict[str, t.Any]

# Metadata that the API server sets.
_SET_BY_SERVER = ("managedFields", "resourceVersion", "generation", "creationTimestamp", "uid")


def named(item: Item) -> str:
    """The kind and name of an object, with its namespace if it has one."""
    metadata = item["metadata"]
    return f"{item['kind']} {'/'.join(filter(None, (metadata.get('namespace'), metadata['name'])))}"


def compared(item: Item | None) -> Item:
    """An object without what the API server sets, to compare it before and after; empty for none."""
    if not item:
        return {}
    metadata = {key: value for key, value in item.get("metadata", {}).items() if key not in _SET_BY_SERVER}
    return {**{key: value for key, value in item.items() if key != "status"}, "metadata": metadata}
