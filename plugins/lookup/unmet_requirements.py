# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: unmet_requirements
short_description: What keeps the playbooks of this collection from running here
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Compares ansible-core and the installed collections with what this collection asks for in C(meta/runtime.yml) and in its
    own metadata.
  - Looks for variables that begin with C(registry_cache_) and that no role and no playbook of this collection knows, as a
    misspelt one is silently without effect.
options:
  _terms:
    description:
      - More collections that a playbook needs, each with a version, such as C(awx.awx>=24.0.0).
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Stop before anything is changed
  ansible.builtin.assert:
    that: query('pullthrough.registry_cache.unmet_requirements') | length == 0
    fail_msg: "{{ query('pullthrough.registry_cache.unmet_requirements') | join(' ') }}"
"""

RETURN = r"""
_raw:
  description: A sentence for each of them; empty if all are met.
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
    """Of a collection: of an installed one from its manifest, of a clone from galaxy.yml."""
    manifest = folder / "MANIFEST.json"
    if manifest.exists():
        return json.loads(manifest.read_text(encoding="utf-8"))["collection_info"]
    galaxy = folder / "galaxy.yml"
    return yaml.safe_load(galaxy.read_text(encoding="utf-8")) if galaxy.exists() else {}


def _installed(name: str) -> str | None:
    """The version of a collection, empty if it does not say one, or None where there is no such collection."""
    try:
        package = importlib.import_module(f"ansible_collections.{name}")
    except ImportError:
        return None
    return str(_metadata(pathlib.Path(next(iter(package.__path__)))).get("version") or "")


def _meets(version: str, wanted: str) -> bool:
    """Whether a version is within limits such as >=5.0.0,<7; the pre-release of a version passes for it."""
    for limit in filter(None, (part.strip() for part in wanted.replace("*", "").split(","))):
        found = _LIMIT.fullmatch(limit)
        if not found:
            raise AnsibleLookupError(f"unmet_requirements: '{limit}' limits no version. Example: >=5.0.0")
        release = re.split(r"[^0-9.]", version)[0].rstrip(".")
        if not _COMPARE[found[1]](LooseVersion(release), LooseVersion(found[2])):
            return False
    return True


def known_variables(collection: pathlib.Path) -> set[str]:
    """What the roles take, and whatever else a playbook names."""
    known: set[str] = set()
    for file in collection.glob("roles/*/meta/argument_specs.yml"):
        entry_points = yaml.safe_load(file.read_text(encoding="utf-8"))["argument_specs"]
        known.update(*(entry_point.get("options") or {} for entry_point in entry_points.values()))
    for file in collection.glob("playbooks/**/*.yml"):
        known.update(re.findall(rf"\b{_PREFIX}\w+", file.read_text(encoding="utf-8")))
    return known


def _unknown(names: t.Iterable[str], known: set[str]) -> t.Iterator[str]:
    # The prefix would make all of them alike.
    ends = [name.removeprefix(_PREFIX) for name in known]
    for name in sorted(set(names) - known):
        close = difflib.get_close_matches(name.removeprefix(_PREFIX), ends, 1, 0.7)
        yield f"{name} is no variable of this collection. " + (
            f"Example: {_PREFIX}{close[0]}" if close else f"Leave it out, or give it a name that does not begin with {_PREFIX}."
        )


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, t.Any] | None = None, **_kwargs: t.Any) -> list[str]:
        wanted = dict(_metadata(_COLLECTION).get("dependencies") or {})
        for term in terms:
            found = _REQUIREMENT.fullmatch(term)
            if not found:
                raise AnsibleLookupError(f"unmet_requirements: '{term}' names no collection. Example: awx.awx>=24.0.0")
            _meets("0", found[2])  # raises for what limits no version
            wanted[found[1]] = found[2]
        core = yaml.safe_load((_COLLECTION / "meta" / "runtime.yml").read_text(encoding="utf-8"))["requires_ansible"]
        said = []
        if not _meets(__version__, core):
            said.append(f"ansible-core is {__version__}, and this collection needs {core}. Example: pip install 'ansible-core{core}'")
        for name, versions in wanted.items():
            version = _installed(name)
            # A clone of another collection may say no version.
            if version is None or (version and not _meets(version, versions)):
                is_ = f"is {version}" if version else "is not installed"
                said.append(
                    f"Collection {name} {is_}, and this collection needs {versions or 'it'}."
                    f" Example: ansible-galaxy collection install '{name}:{versions or '*'}'"
                )
        names = [name for name in variables or {} if name.startswith(_PREFIX)]
        return [*said, *_unknown(names, known_variables(_COLLECTION))]
