# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # Of modules that read users from a variable.
    DOCUMENTATION = r"""
options:
  users_from:
    description:
      - The name of a variable that holds O(users), so that no argument of the task holds a password. Other keys of its items are ignored.
    type: str
attributes:
  action:
    description: An action plugin of the same name reads the variable of O(users_from).
    support: full
"""
