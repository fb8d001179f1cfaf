#!/usr/bin/python
# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: python_requirements_info
short_description: Find missing Python packages
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Finds Python packages that are missing in the interpreter that runs modules. In an execution environment, this is the interpreter of
    that environment.
attributes:
  check_mode:
    description: The module only reads, so it does the same in check mode.
    support: full
  diff_mode:
    description: The module changes nothing.
    support: none
options:
  requirements:
    description:
      - Lines of a requirements file. Each line is a package, or a package with its minimum version, such as V(kubernetes>=24.2.0).
      - Comments and empty lines are ignored.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Find missing packages of this collection's modules
  pullthrough.registry_cache.python_requirements_info:
    requirements: "{{ lookup('ansible.builtin.file', 'requirements.txt').splitlines() }}"
  register: found

- name: Check that no package is missing
  ansible.builtin.assert:
    that: found.unmet | length == 0
"""

RETURN = r"""
python:
  description: Path of the Python interpreter.
  returned: success
  type: str
  sample: /usr/bin/python3.11
unmet:
  description: Requirements that are not met.
  returned: success
  type: list
  elements: dict
  contains:
    requirement:
      description: Line of O(requirements).
      type: str
      sample: kubernetes>=24.2.0
    installed:
      description: Installed version. Empty if the package is not installed.
      type: str
      sample: 12.0.1
"""

import re
import sys
from importlib import metadata

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.compat.version import LooseVersion

_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\s*>=\s*([0-9][^\s,;]*))?")


def _shortfall(requirement: str) -> dict[str, str] | None:
    """Return the requirement and the installed version if the requirement is not met. Raise ValueError if it is malformed."""
    found = _LINE.fullmatch(requirement)
    if not found:
        raise ValueError(f"requirements: '{requirement}' must be PACKAGE or PACKAGE>=VERSION. Example: requirements: [kubernetes>=24.2.0]")
    name, lowest = found.groups()
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        installed = ""
    if installed and not (lowest and LooseVersion(installed) < LooseVersion(lowest)):
        return None
    return {"requirement": requirement, "installed": installed}


def main() -> None:
    module = AnsibleModule(
        argument_spec={"requirements": {"type": "list", "elements": "str", "required": True}}, supports_check_mode=True
    )
    lines = (line.partition("#")[0].strip() for line in module.params["requirements"])
    try:
        unmet = [shortfall for line in lines if line and (shortfall := _shortfall(line))]
    except ValueError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, python=sys.executable, unmet=unmet)


if __name__ == "__main__":
    main()
