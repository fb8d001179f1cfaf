# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # For modules that can read users from a variable.
    DOCUMENTATION = r"""
options:
  users_from:
    description:
      - Name of the variable that holds O(users). Use it instead of O(users) to keep passwords out of the task arguments.
      - Other keys of the variable's items are ignored.
    type: str
attributes:
  action:
    description: An action plugin of the same name reads the variable named by O(users_from).
    support: full
"""
