# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # Of modules that bring something to a state.
    DOCUMENTATION = r"""
attributes:
  check_mode:
    description: Can run in check mode and tell what would change.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""

    # Of modules that only read.
    READ = r"""
attributes:
  check_mode:
    description: Reads only.
    support: full
  diff_mode:
    description: Reads only.
    support: none
  idempotent:
    description: Reads only.
    support: full
"""
