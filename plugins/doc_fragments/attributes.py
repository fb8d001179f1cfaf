# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # For modules that change objects.
    DOCUMENTATION = r"""
attributes:
  check_mode:
    description: Reports what would change, and changes nothing.
    support: full
  idempotent:
    description: Running it again with the same options changes nothing.
    support: full
"""

    # For modules that only read.
    READ = r"""
attributes:
  check_mode:
    description: The module only reads, so it does the same in check mode.
    support: full
  diff_mode:
    description: The module changes nothing.
    support: none
  idempotent:
    description: The module changes nothing.
    support: full
"""
