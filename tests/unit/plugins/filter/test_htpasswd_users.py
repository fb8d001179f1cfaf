# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter htpasswd_users: the lines of another registry's htpasswd file as users of the cache."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.pullthrough.registry_cache.plugins.filter import htpasswd_users as plugin

htpasswd_users = plugin.FilterModule().filters()["htpasswd_users"]
HASH = "$2y$10$" + "x" * 53


def user(name: str) -> dict[str, Any]:
    return {"name": name, "hash": HASH, "pull_secret": {"namespaces": []}}


def test_each_line_is_a_user() -> None:
    assert htpasswd_users(f"# of 2025\nnodes:{HASH}\n\nci:{HASH} \n") == [user("nodes"), user("ci")]
    assert htpasswd_users(f"nodes:{HASH}") == [user("nodes")]
    assert htpasswd_users("") == []


@pytest.mark.parametrize("text", ["nodes", f"nodes:{HASH}\nnodes:{HASH}", ["nodes"], None])
def test_what_is_refused(text: Any) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        htpasswd_users(text)
    assert "htpasswd_users: " in str(caught.value) and "Example: " in str(caught.value) and HASH not in str(caught.value)
