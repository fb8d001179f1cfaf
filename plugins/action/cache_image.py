# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run module cache_image with the sources of this collection, and show its log while it runs. Ansible shows no output of a module."""

from __future__ import annotations

import concurrent.futures
import pathlib
import tempfile
import typing as t

from ansible.utils.display import Display
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import inputs
from ansible_collections.pullthrough.registry_cache.plugins.plugin_utils._secrets import SecretsAction

_PAUSE_SECONDS = 1
_display = Display()


class ActionModule(SecretsAction):
    """Shows the log of the module, which the module writes to a file on its host, by polling the file over the same connection."""

    SECRETS = ("password",)
    _supports_async = False

    def execute(self, arguments: dict[str, t.Any], task_vars: dict[str, t.Any] | None) -> dict[str, t.Any]:
        collection = pathlib.Path(__file__).resolve().parents[2]
        arguments = {**arguments, "labels": inputs.labels(collection)}
        self._make_tmp_path()
        try:
            if self._connection.transport == "local":
                arguments["context"] = str(collection / "docker")
            else:
                arguments["sources"] = self._send_sources(collection / "docker")
            if self._task.check_mode:
                return self._execute_module(module_args=arguments, task_vars=task_vars)
            return self._run_and_show(arguments, task_vars)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)

    def _send_sources(self, context: pathlib.Path) -> str:
        """Copy the sources to a temporary file on the module's host; return its path."""
        remote = self._connection._shell.join_path(self._connection._shell.tmpdir, "sources.tar.gz")
        with tempfile.NamedTemporaryFile() as file:
            inputs.pack(context, file.name)
            self._transfer_file(file.name, remote)
        self._fixup_perms2((self._connection._shell.tmpdir, remote))
        return remote

    def _run_and_show(self, arguments: dict[str, t.Any], task_vars: dict[str, t.Any] | None) -> dict[str, t.Any]:
        log = self._connection._shell.join_path(self._connection._shell.tmpdir, "output")
        shown = 0
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            module = executor.submit(self._execute_module, module_args={**arguments, "log_path": log}, task_vars=task_vars)
            while not module.done():
                concurrent.futures.wait([module], timeout=_PAUSE_SECONDS)
                shown += self._show(log, shown, whole=module.done())
            return module.result()

    def _show(self, log: str, start: int, whole: bool) -> int:
        """Show the lines after the first C(start) characters; return the number of characters shown."""
        quoted = self._connection._shell.quote(log)
        answer = self._low_level_execute_command(f"cat {quoted} 2>/dev/null || true", sudoable=False)
        text = answer.get("stdout", "")[start:]
        if not whole:
            text = text[: text.rfind("\n") + 1]
        for line in text.splitlines():
            _display.display(f"  {line}")
        return len(text)
