# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugins of modules that read a secret from a variable by name, to keep the secret out of the task arguments.

Private to this collection.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


def _without(value: t.Any, omitted: t.Any) -> t.Any:
    """Return a value without its omitted parts. Before 2.19, ansible-core removes their placeholder only from task arguments."""
    if isinstance(value, Mapping):
        return {key: _without(one, omitted) for key, one in value.items() if omitted is None or one != omitted}
    if isinstance(value, list):
        return [_without(one, omitted) for one in value if omitted is None or one != omitted]
    return value


class SecretsAction(ActionBase):
    """Runs the module of the same name. Option C(NAME_from) is the name of the variable that holds option C(NAME).

    The module sets C(no_log) for each option in C(SECRETS). If the variable is empty, the option stays unset.
    """

    SECRETS: t.ClassVar[tuple[str, ...]]
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        return self.execute(self._arguments(task_vars or {}), task_vars)

    def execute(self, arguments: dict[str, t.Any], task_vars: dict[str, t.Any] | None) -> dict[str, t.Any]:
        """Run the module; return its result."""
        wrap_async = self._task.async_val and not self._connection.has_native_async
        return self._execute_module(module_args=arguments, task_vars=task_vars, wrap_async=wrap_async)

    def convert(self, _name: str, value: t.Any) -> t.Any:
        """Return the option's value for a variable's value. Raise AnsibleActionFail for an invalid one."""
        return value

    def _arguments(self, variables: dict[str, t.Any]) -> dict[str, t.Any]:
        """Return the task's arguments with the values of the variables that they name. Raise AnsibleActionFail."""
        arguments = dict(self._task.args)
        for option in self.SECRETS:
            source = f"{option}_from"
            if (name := arguments.get(source)) is None:
                continue
            example = f"Example: {source}: my_{option}"
            if not isinstance(name, str) or name not in variables:
                raise AnsibleActionFail(f"{source}: variable '{name}' is not defined. {example}")
            # Template inside a list, because an omitted value is an error elsewhere.
            found = _without(self._templar.template([variables[name]]), variables.get("omit"))
            value = self.convert(name, found[0] if found else None)
            if value is None or value == "":
                continue
            if arguments.get(option) is not None:
                raise AnsibleActionFail(f"{option} and {source} exclude each other. Set one of them. {example}")
            arguments[option] = value
        return arguments


class AccessTokenAction(SecretsAction):
    """Runs a module for Google."""

    SECRETS = ("access_token",)


class UsersAction(SecretsAction):
    """Passes only the keys in C(KEYS) of each user to the module."""

    SECRETS = ("users",)
    KEYS: t.ClassVar[tuple[str, ...]]

    def convert(self, name: str, value: t.Any) -> t.Any:
        if not isinstance(value, list) or not all(isinstance(user, Mapping) for user in value):
            raise AnsibleActionFail(f"users_from: {name} must be a list of users. Example: {name}: [{{name: nodes}}]")
        return [{key: user[key] for key in self.KEYS if key in user} for user in value]
