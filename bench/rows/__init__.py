# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of `make bench` by topic. Importing this package registers them in the order in which they run."""

from . import warm, cold, resources, attack, peers, failures, htpasswd_users  # isort: skip

__all__ = ["attack", "cold", "failures", "htpasswd_users", "peers", "resources", "warm"]
