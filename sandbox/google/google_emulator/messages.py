# SPDX-License-Identifier: GPL-3.0-or-later
"""Bodies of the googleapis hosts: refuses unknown fields, omits empty ones, applies update masks."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from starlette.requests import Request

from .errors import GoogleError
from .store import Resource

# By field: a JSON type, the fields of a message, [kind] for a list, {"*": kind} for a map.
Fields = Mapping[str, Any]


async def read(request: Request, fields: Fields) -> Resource:
    """Returns the body as a message with these fields. Raises GoogleError like Google's JSON transcoding."""
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError:
        raise GoogleError("INVALID_ARGUMENT", "Invalid JSON payload received.") from None
    _check(body, fields, "")
    return pruned(body, fields)


def _check(value: Any, kind: Any, path: str) -> None:
    expected = kind if isinstance(kind, type) else dict if isinstance(kind, Mapping) else list
    if not isinstance(value, expected):
        raise GoogleError("INVALID_ARGUMENT", f"Invalid value at '{path}' (type {expected.__name__}).")
    if isinstance(kind, Mapping):
        for name, item in value.items():
            if name not in kind and "*" not in kind:
                at = f" at '{path}'" if path else ""
                message = f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.'
                raise GoogleError("INVALID_ARGUMENT", message)
            if item is not None or "*" in kind:  # null means omitted, except in a map
                _check(item, kind.get("*") or kind[name], f"{path}.{name}".lstrip("."))
    elif isinstance(kind, list):
        for index, item in enumerate(value):
            _check(item, kind[0], f"{path}[{index}]")


def pruned(message: Resource, fields: Fields) -> Resource:
    """Returns a message without empty and false fields, like proto3 JSON. Contents of maps stay."""
    result = {}
    for name, value in message.items():
        kind = fields.get(name)
        if isinstance(value, dict) and isinstance(kind, Mapping) and "*" not in kind:
            value = pruned(value, kind)
        if value not in (None, False, "", [], {}):
            result[name] = value
    return result


def mask(text: str, fields: Fields) -> list[str]:
    """Returns the paths of an updateMask in camelCase; clients also send snake_case. Raises GoogleError."""
    if not text:
        raise GoogleError("INVALID_ARGUMENT", "The update mask must be specified.")
    paths = [re.sub(r"_([a-z])", lambda match: match[1].upper(), path.strip()) for path in text.split(",")]
    for path in paths:
        known: Any = fields
        for part in path.split("."):
            known = known.get(part) if isinstance(known, Mapping) else None
        if known is None:
            raise GoogleError("INVALID_ARGUMENT", f"Invalid update mask path: {path}.")
    return paths


def updated(current: Resource, change: Resource, paths: list[str], fields: Fields) -> Resource:
    """Returns a copy with the paths of `change`. Maps are replaced completely, absent fields are cleared."""
    result = copy.deepcopy(current)
    for path in paths:
        *outer, last = path.split(".")
        target, source = result, change
        for part in outer:
            target, source = target.setdefault(part, {}), source.get(part, {})
        target[last] = copy.deepcopy(source.get(last))
    return pruned(result, fields)


def rfc3339(seconds: float) -> str:
    """Returns a Timestamp in UTC with whole seconds."""
    return datetime.fromtimestamp(int(seconds), timezone.utc).isoformat().replace("+00:00", "Z")


def page(request: Request, items: list[Resource], default: int, maximum: int) -> tuple[list[Resource], Resource]:
    """Returns a page (google.aip.dev/158) and the other fields of the answer: `nextPageToken` if there is more."""
    try:
        size = min(int(request.query_params.get("pageSize") or default) or default, maximum)
        start = int(request.query_params.get("pageToken") or 0)
        if size < 0 or start < 0:
            raise ValueError
    except ValueError:
        raise GoogleError("INVALID_ARGUMENT", "Request contains an invalid argument.") from None
    end = start + size
    return items[start:end], {"nextPageToken": str(end)} if end < len(items) else {}
