# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # Options of a workload identity pool and of its providers.
    DOCUMENTATION = r"""
options:
  pool_id:
    description: ID of the pool. It has 4 to 32 characters (C(a-z), C(0-9), C(-)), and must not start with C(gcp-).
    type: str
    required: true
  display_name:
    description: Display name, with at most 32 characters. If not set, the existing one is kept.
    type: str
  description:
    description: Description, with at most 256 characters. If not set, the existing one is kept.
    type: str
  disabled:
    description:
      - Whether the pool or provider is disabled. If not set, the existing state is kept.
      - A disabled pool or provider exchanges no tokens. Tokens that Google has already issued remain valid if a provider is disabled,
        and lose their access if a pool is disabled.
    type: bool
"""

    # For modules that only read pools or providers.
    READ = r"""
options:
  show_deleted:
    description: Whether a list includes pools and providers that were deleted in the last 30 days.
    type: bool
    default: false
"""
