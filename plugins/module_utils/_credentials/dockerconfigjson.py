# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The content of a pull secret."""

from __future__ import annotations

import json
from base64 import b64encode


def render(hosts: list[str], username: str, password: str) -> str:
    """Return JSON with one credential for several hosts. The same input gives the same text."""
    auth = b64encode(f"{username}:{password}".encode()).decode()
    entry = {"username": username, "password": password, "auth": auth}
    return json.dumps({"auths": dict.fromkeys(hosts, entry)}, sort_keys=True)


def hosts(text: str) -> list[str]:
    """Return the hosts in the JSON, sorted; none if the text is malformed."""
    try:
        return sorted(json.loads(text)["auths"])
    except (ValueError, LookupError, TypeError):
        return []
