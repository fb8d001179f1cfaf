# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Users whose passwords are in a variable, for modules that take them by its name.

Private to this collection.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class UsersAction(ActionBase):
    """Runs the module of its name with the users of the variable that C(users_from) names.

    So no task argument holds a password. The module has C(no_log) for it, and gets no other key of a user than those of C(KEYS).
    """

    KEYS: t.ClassVar[tuple[str, ...]]
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        arguments, variables = dict(self._task.args), task_vars or {}
        if name := arguments.get("users_from"):
            if arguments.get("users") is not None:
                raise AnsibleActionFail("users and users_from exclude each other. Example: users_from: my_users")
            if name not in variables:
                raise AnsibleActionFail(f"users_from: there is no variable {name}. Example: users_from: my_users")
            users = self._templar.template(variables[name])
            if not isinstance(users, list) or not all(isinstance(user, Mapping) for user in users):
                raise AnsibleActionFail(f"users_from: {name} must be a list of users. Example: {name}: [{{name: nodes}}]")
            arguments["users"] = [{key: user[key] for key in self.KEYS if key in user} for user in users]
        return self._execute_module(module_args=arguments, task_vars=task_vars)
