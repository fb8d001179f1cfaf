# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugins of modules that read a secret from a variable by its name, so that no task argument holds the secret.

Private to this collection.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


def _without(value: t.Any, omitted: t.Any) -> t.Any:
    """The value without omitted parts. Before 2.19 ansible-core leaves a placeholder for them, and removes it from task arguments only."""
    if isinstance(value, Mapping):
        return {key: _without(one, omitted) for key, one in value.items() if omitted is None or one != omitted}
    if isinstance(value, list):
        return [_without(one, omitted) for one in value if omitted is None or one != omitted]
    return value


class SecretsAction(ActionBase):
    """Runs the module of its name; option C(NAME_from) is the name of the variable that holds option C(NAME).

    The module has C(no_log) for each option of C(SECRETS). Where the variable is empty, the option stays unset.
    """

    SECRETS: t.ClassVar[tuple[str, ...]]
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        return self.execute(self._arguments(task_vars or {}), task_vars)

    def execute(self, arguments: dict[str, t.Any], task_vars: dict[str, t.Any] | None) -> dict[str, t.Any]:
        """The result of the module."""
        wrap_async = self._task.async_val and not self._connection.has_native_async
        return self._execute_module(module_args=arguments, task_vars=task_vars, wrap_async=wrap_async)

    def convert(self, _name: str, value: t.Any) -> t.Any:
        """The value of the option, from that of the variable. Raises AnsibleActionFail."""
        return value

    def _arguments(self, variables: dict[str, t.Any]) -> dict[str, t.Any]:
        """The task's arguments, with the values of the variables that they name. Raises AnsibleActionFail."""
        arguments = dict(self._task.args)
        for option in self.SECRETS:
            source = f"{option}_from"
            if (name := arguments.get(source)) is None:
                continue
            example = f"Example: {source}: my_{option}"
            if not isinstance(name, str) or name not in variables:
                raise AnsibleActionFail(f"{source}: there is no variable '{name}'. {example}")
            # In a list, since an omitted value is an error elsewhere.
            found = _without(self._templar.template([variables[name]]), variables.get("omit"))
            value = self.convert(name, found[0] if found else None)
            if value is None or value == "":
                continue
            if arguments.get(option) is not None:
                raise AnsibleActionFail(f"{option} and {source} exclude each other. {example}")
            arguments[option] = value
        return arguments


class AccessTokenAction(SecretsAction):
    """Runs a module for Google."""

    SECRETS = ("access_token",)


class UsersAction(SecretsAction):
    """Gives the module no other key of a user than those of C(KEYS)."""

    SECRETS = ("users",)
    KEYS: t.ClassVar[tuple[str, ...]]

    def convert(self, name: str, value: t.Any) -> t.Any:
        if not isinstance(value, list) or not all(isinstance(user, Mapping) for user in value):
            raise AnsibleActionFail(f"users_from: {name} must be a list of users. Example: {name}: [{{name: nodes}}]")
        return [{key: user[key] for key in self.KEYS if key in user} for user in value]
