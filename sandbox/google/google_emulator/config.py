# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration file."""

from __future__ import annotations

import json
import os
import pathlib
import secrets
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Config:
    """The contents of the `--config` file. Keys without a default are required.

    projects: number by project id. disabled_services: APIs that are disabled at the start, by project id.
    operator: the IAM member with all permissions.
    registry_url: a distribution registry without authentication, which only the emulator can reach.
    """

    address: str
    state_dir: pathlib.Path
    registry_url: str
    operator: str
    operator_token_file: pathlib.Path
    projects: dict[str, str]
    port: int = 443
    proxy_port: int = 3128
    disabled_services: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: pathlib.Path) -> Config:
        """Raises TypeError for a missing or unknown key."""
        values = json.loads(path.read_text())
        for key in ("state_dir", "operator_token_file"):
            values[key] = pathlib.Path(values[key])
        return cls(**values)

    def operator_token(self) -> str:
        """Returns the operator's access token, and creates it (0600) at the first call."""
        try:
            return self.operator_token_file.read_text().strip()
        except FileNotFoundError:
            token = f"ya29.{secrets.token_urlsafe(32)}"
            write_private(self.operator_token_file, token.encode() + b"\n")
            return token


def write_private(path: pathlib.Path, content: bytes) -> None:
    """Replace a file atomically. Only its owner can ever read it."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    temporary.replace(path)
