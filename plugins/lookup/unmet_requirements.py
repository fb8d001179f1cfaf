# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: unmet_requirements
short_description: Find requirements of this collection that are not met
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Compares the versions of ansible-core and of the installed collections with the requirements in C(meta/runtime.yml) and in the
    metadata of this collection.
  - Finds variables that begin with C(registry_cache_) but that no role or playbook of this collection uses. A misspelt variable would
    have no effect and cause no error.
options:
  _terms:
    description:
      - Additional collections that a playbook needs, each with a version, such as C(awx.awx>=24.0.0).
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Check the requirements
  ansible.builtin.assert:
    that: query('pullthrough.registry_cache.unmet_requirements') | length == 0
    fail_msg: "{{ query('pullthrough.registry_cache.unmet_requirements') | join(' ') }}"
"""

RETURN = r"""
_raw:
  description: One message for each unmet requirement. The list is empty if all are met.
  type: list
  elements: str
"""

import difflib
import importlib
import json
import operator
import pathlib
import re
import typing as t

import yaml
from ansible.errors import AnsibleLookupError
from ansible.module_utils.compat.version import LooseVersion
from ansible.plugins.lookup import LookupBase
from ansible.release import __version__

_COLLECTION = pathlib.Path(__file__).resolve().parents[2]
_PREFIX = "registry_cache_"
_REQUIREMENT = re.compile(r"([a-z0-9_]+\.[a-z0-9_]+) *(.*)")
_LIMIT = re.compile(r"(>=|<=|==|!=|>|<) *([0-9][0-9A-Za-z.+-]*)")
_COMPARE = {">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt}


def _metadata(folder: pathlib.Path) -> dict[str, t.Any]:
    """Return the metadata of a collection: from its manifest if it is installed, or from galaxy.yml if it is a clone."""
    manifest = folder / "MANIFEST.json"
    if manifest.exists():
        return json.loads(manifest.read_text(encoding="utf-8"))["collection_info"]
    galaxy = folder / "galaxy.yml"
    return yaml.safe_load(galaxy.read_text(encoding="utf-8")) if galaxy.exists() else {}


def _installed(name: str) -> str | None:
    """Return the version of a collection, an empty string if its version is unknown, or None if it is not installed."""
    try:
        package = importlib.import_module(f"ansible_collections.{name}")
    except ImportError:
        return None
    return str(_metadata(pathlib.Path(next(iter(package.__path__)))).get("version") or "")


def _meets(version: str, wanted: str) -> bool:
    """Return whether a version is in a range such as >=5.0.0,<7. A pre-release counts as its release."""
    for limit in filter(None, (part.strip() for part in wanted.replace("*", "").split(","))):
        found = _LIMIT.fullmatch(limit)
        if not found:
            raise AnsibleLookupError(f"unmet_requirements: '{limit}' must be a version limit. Example: >=5.0.0")
        release = re.split(r"[^0-9.]", version)[0].rstrip(".")
        if not _COMPARE[found[1]](LooseVersion(release), LooseVersion(found[2])):
            return False
    return True


def known_variables(collection: pathlib.Path) -> set[str]:
    """Return the variables that the roles accept, and all others that a playbook uses."""
    known: set[str] = set()
    for file in collection.glob("roles/*/meta/argument_specs.yml"):
        entry_points = yaml.safe_load(file.read_text(encoding="utf-8"))["argument_specs"]
        known.update(*(entry_point.get("options") or {} for entry_point in entry_points.values()))
    for file in collection.glob("playbooks/**/*.yml"):
        known.update(re.findall(rf"\b{_PREFIX}\w+", file.read_text(encoding="utf-8")))
    return known


def _unknown(names: t.Iterable[str], known: set[str]) -> t.Iterator[str]:
    # Compare without the common prefix, which would make all names similar.
    ends = [name.removeprefix(_PREFIX) for name in known]
    for name in sorted(set(names) - known):
        close = difflib.get_close_matches(name.removeprefix(_PREFIX), ends, 1, 0.7)
        yield f"{name} is not a variable of this collection. " + (
            f"Example: {_PREFIX}{close[0]}" if close else f"Remove it, or give it a name that does not begin with {_PREFIX}."
        )


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, t.Any] | None = None, **_kwargs: t.Any) -> list[str]:
        wanted = dict(_metadata(_COLLECTION).get("dependencies") or {})
        for term in terms:
            found = _REQUIREMENT.fullmatch(term)
            if not found:
                raise AnsibleLookupError(f"unmet_requirements: '{term}' must be a collection with a version. Example: awx.awx>=24.0.0")
            _meets("0", found[2])  # raises an error for an invalid limit
            wanted[found[1]] = found[2]
        core = yaml.safe_load((_COLLECTION / "meta" / "runtime.yml").read_text(encoding="utf-8"))["requires_ansible"]
        messages = []
        if not _meets(__version__, core):
            messages.append(
                f"ansible-core must be {core} (got {__version__}). Install that version. Example: pip install 'ansible-core{core}'"
            )
        for name, versions in wanted.items():
            version = _installed(name)
            # A clone of another collection may have no version.
            if version is None or (version and not _meets(version, versions)):
                got = version or "none installed"
                messages.append(
                    f"Collection {name} must be {versions or 'installed'} (got {got}). Install that version."
                    f" Example: ansible-galaxy collection install '{name}:{versions or '*'}'"
                )
        names = [name for name in variables or {} if name.startswith(_PREFIX)]
        return [*messages, *_unknown(names, known_variables(_COLLECTION))]
