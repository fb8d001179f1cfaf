# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # What a workload identity pool and its providers have in common.
    DOCUMENTATION = r"""
options:
  pool_id:
    description: The pool's id, 4 to 32 of C(a-z), C(0-9) and C(-), not beginning with C(gcp-).
    type: str
    required: true
  display_name:
    description: A name to show, of at most 32 characters. Left as it is if unset.
    type: str
  description:
    description: A text of at most 256 characters. Left as it is if unset.
    type: str
  disabled:
    description:
      - Whether it is disabled. Left as it is if unset.
      - A disabled pool or provider exchanges no token. Tokens that were issued live on with a disabled provider, and stop
        granting with a disabled pool.
    type: bool
"""

    # Of modules that only read them.
    READ = r"""
options:
  show_deleted:
    description: Whether a list has those that were deleted within the last 30 days, too.
    type: bool
    default: false
"""
