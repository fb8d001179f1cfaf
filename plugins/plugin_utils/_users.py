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


def _without(value: t.Any, omitted: t.Any) -> t.Any:
    """The value without what is omitted; before 2.19 ansible-core leaves a placeholder for that, which only arguments of tasks lose."""
    if isinstance(value, Mapping):
        return {key: _without(one, omitted) for key, one in value.items() if omitted is None or one != omitted}
    if isinstance(value, list):
        return [_without(one, omitted) for one in value if omitted is None or one != omitted]
    return value


class UsersAction(ActionBase):
    """Runs the module of its name with the users of the variable that C(users_from) names.

    So no task argument holds a password. The module has C(no_log) for it, and gets no other key of a user than those of C(KEYS).
    """

    KEYS: t.ClassVar[tuple[str, ...]]
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        arguments, variables = dict(self._task.args), task_vars or {}
        if (name := arguments.get("users_from")) is not None:
            if arguments.get("users") is not None:
                raise AnsibleActionFail("users and users_from exclude each other. Example: users_from: my_users")
            if not isinstance(name, str) or name not in variables:
                raise AnsibleActionFail(f"users_from: there is no variable '{name}'. Example: users_from: my_users")
            users = _without(self._templar.template(variables[name]), variables.get("omit"))
            if not isinstance(users, list) or not all(isinstance(user, Mapping) for user in users):
                raise AnsibleActionFail(f"users_from: {name} must be a list of users. Example: {name}: [{{name: nodes}}]")
            arguments["users"] = [{key: user[key] for key in self.KEYS if key in user} for user in users]
        wrap_async = self._task.async_val and not self._connection.has_native_async
        return self._execute_module(module_args=arguments, task_vars=task_vars, wrap_async=wrap_async)
