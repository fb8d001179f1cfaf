# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in the interpreter under test: imports everything that plugins import, and prints what is missing.

python imports.py FOLDER_OF_ANSIBLE_COLLECTIONS FILE ...
"""

from __future__ import annotations

import ast
import importlib
import pathlib
import sys

from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder


def imports(file: pathlib.Path) -> dict[str, list[tuple[str, str]]]:
    """Returns modules and imported names (empty for the module itself), by the name they are bound to; without relative imports.

    If a name has several, they are fallbacks of each other.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.asname or alias.name, []).append((alias.name, ""))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                found.setdefault(alias.asname or alias.name, []).append((node.module or "", alias.name))
    return found


def fault(module: str, name: str) -> str:
    """Returns the reason why an import fails, or nothing."""
    try:
        if name and not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}")
    except ImportError as error:
        return str(error)
    return ""


def main() -> None:
    _AnsibleCollectionFinder(paths=[sys.argv[1]])._install()
    number = 0
    for file in map(pathlib.Path, sys.argv[2:]):
        for ways in imports(file).values():
            number += 1
            faults = [fault(*way) for way in ways]
            if all(faults):
                print(f"{file.stem}: {'; '.join(faults)}")
    print(f"{number} imports")


if __name__ == "__main__":
    main()
