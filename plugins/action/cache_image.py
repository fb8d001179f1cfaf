# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs module cache_image and shows what it logs as it comes, which Ansible does for no module."""

from __future__ import annotations

import concurrent.futures
import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

_PAUSE_SECONDS = 1
_display = Display()


class ActionModule(ActionBase):
    """The module writes its log into a file where it runs; this reads on in it through the same connection."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        if self._task.check_mode:
            return self._execute_module(task_vars=task_vars)
        self._make_tmp_path()
        log = self._connection._shell.join_path(self._connection._shell.tmpdir, "output")
        arguments = {**self._task.args, "log_path": log}
        shown = 0
        try:
            with concurrent.futures.ThreadPoolExecutor(1) as executor:
                module = executor.submit(self._execute_module, module_args=arguments, task_vars=task_vars)
                while not module.done():
                    concurrent.futures.wait([module], timeout=_PAUSE_SECONDS)
                    shown += self._show(log, shown, whole=module.done())
                return module.result()
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)

    def _show(self, log: str, start: int, whole: bool) -> int:
        """Show the lines after the first C(start) characters; returns how many characters that were."""
        quoted = self._connection._shell.quote(log)
        answer = self._low_level_execute_command(f"cat {quoted} 2>/dev/null || true", sudoable=False)
        text = answer.get("stdout", "")[start:]
        if not whole:
            text = text[: text.rfind("\n") + 1]
        for line in text.splitlines():
            _display.display(f"  {line}")
        return len(text)
