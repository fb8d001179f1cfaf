# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run module pull_secrets with the users of a variable."""

from __future__ import annotations

from ansible_collections.pullthrough.registry_cache.plugins.plugin_utils._secrets import UsersAction


class ActionModule(UsersAction):
    KEYS = ("name", "password", "pull_secret")
