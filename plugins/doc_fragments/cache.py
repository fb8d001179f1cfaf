# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # For modules that work on one cache of a cluster.
    DOCUMENTATION = r"""
options:
  name:
    description: Name of the cache.
    type: str
    default: registry-cache
  namespace:
    description: Namespace of the cache.
    type: str
    default: registry-cache
"""
