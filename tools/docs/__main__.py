# SPDX-License-Identifier: GPL-3.0-or-later
"""python -m tools.docs: makes the documentation's site in build/docs."""

from __future__ import annotations

import subprocess
import sys

from . import SITE, build
from .pages import DeadLink


def main() -> None:
    try:
        build()
    except DeadLink as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)  # it has printed why
    print(f"The documentation is in {SITE}/index.html")


if __name__ == "__main__":
    main()
