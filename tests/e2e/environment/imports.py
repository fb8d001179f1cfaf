# SPDX-License-Identifier: GPL-3.0-or-later
"""Run by an interpreter to be proved: imports whatever a plugin imports, guarded or not, and prints what it could not.

python imports.py FOLDER_OF_ANSIBLE_COLLECTIONS FILE ...
"""

from __future__ import annotations

import ast
import importlib
import pathlib
import sys

from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder


def imports(file: pathlib.Path) -> list[tuple[str, str]]:
    """Modules, and names of them, empty for the module itself; not those of its own folder."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


def main() -> None:
    _AnsibleCollectionFinder(paths=[sys.argv[1]])._install()
    number = 0
    for file in map(pathlib.Path, sys.argv[2:]):
        for module, name in imports(file):
            number += 1
            try:
                if name and not hasattr(importlib.import_module(module), name):
                    importlib.import_module(f"{module}.{name}")
            except ImportError as error:
                print(f"{file.stem}: {error}")
    print(f"{number} imports")


if __name__ == "__main__":
    main()
