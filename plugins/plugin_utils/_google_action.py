# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module of Google with the access token of a variable. Links in plugins/action give it the name of each module.

Private to this collection.
"""

from __future__ import annotations

from ansible_collections.pullthrough.registry_cache.plugins.plugin_utils._secrets import SecretsAction


class ActionModule(SecretsAction):
    SECRETS = ("access_token",)
