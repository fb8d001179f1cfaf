# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection to a host whose files the control node does not see: they exist only while a command runs."""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

from ansible.plugins.connection.local import Connection as Local

DOCUMENTATION = """
name: elsewhere
short_description: a host with other files
description: [a host with other files]
author: the authors
options:
  become_success_timeout: {type: int, default: 10, vars: [{name: none}], description: [as for local]}
  become_strip_preamble: {type: bool, default: true, vars: [{name: none}], description: [as for local]}
extends_documentation_fragment: [connection_pipelining]
"""

# The control node reads the log of a module while it runs.
_lock, _users = threading.Lock(), [0]


class Connection(Local):
    """Folder $ELSEWHERE/HOST has the host's files. It is renamed while no command runs."""

    transport = "elsewhere"

    @contextlib.contextmanager
    def _there(self) -> Iterator[pathlib.Path]:
        visible = pathlib.Path(os.environ["ELSEWHERE"], str(self._play_context.remote_addr))
        hidden = visible.with_name(f"{visible.name}-hidden")
        with _lock:
            if not _users[0]:
                hidden.rename(visible)
            _users[0] += 1
        try:
            yield visible
        finally:
            with _lock:
                _users[0] -= 1
                if not _users[0]:
                    visible.rename(hidden)

    def exec_command(self, cmd: str, *arguments: Any, **options: Any) -> Any:
        with self._there() as folder:
            return super().exec_command(f"TMPDIR={folder} {cmd}", *arguments, **options)

    def put_file(self, in_path: str, out_path: str) -> None:
        with self._there():
            super().put_file(in_path, out_path)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        with self._there():
            super().fetch_file(in_path, out_path)
