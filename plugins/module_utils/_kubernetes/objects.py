# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of any kind, as the API server returns them.

Private to this collection.
"""

from __future__ import annotations

import typing as t

Item = t.Dict[str, t.Any]

# Metadata that the API server sets.
_SET_BY_SERVER = ("managedFields", "resourceVersion", "generation", "creationTimestamp", "uid")


def named(item: Item) -> str:
    """Return the kind and name of an object, with its namespace if it has one."""
    metadata = item["metadata"]
    return f"{item['kind']} {'/'.join(filter(None, (metadata.get('namespace'), metadata['name'])))}"


def compared(item: Item | None) -> Item:
    """Return an object without the fields that the API server sets, for comparisons; an empty one for None."""
    if not item:
        return {}
    metadata = {key: value for key, value in item.get("metadata", {}).items() if key not in _SET_BY_SERVER}
    return {**{key: value for key, value in item.items() if key != "status"}, "metadata": metadata}
