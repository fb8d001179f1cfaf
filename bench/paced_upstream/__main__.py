# SPDX-License-Identifier: GPL-3.0-or-later
"""`python3 -m bench.paced_upstream CONFIG`: serve until SIGTERM."""

from __future__ import annotations

import json
import pathlib
import sys

from ..content import Library
from .server import Server
from .state import Settings, State


def main() -> None:
    config = json.loads(pathlib.Path(sys.argv[1]).read_text())
    Server(State(Library(pathlib.Path(config["library"])), config["secret"], Settings()), config["port"]).serve_forever()


if __name__ == "__main__":
    main()
