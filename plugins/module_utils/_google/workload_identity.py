# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workload identity pools and their providers, which are created, undeleted and deleted in the same way.

Private to this collection. Source of the rules: the IAM v1 discovery document.
"""

from __future__ import annotations

import re
import typing as t

from .client import GcpClient, GcpError
from .resource import Resource
from .runner import STATE

API = "https://iam.googleapis.com/v1"
# Options of the doc fragments workload_identity and workload_identity.read.
OPTIONS: dict[str, t.Any] = {
    "pool_id": {"type": "str", "required": True},
    "display_name": {"type": "str"},
    "description": {"type": "str"},
    "disabled": {"type": "bool"},
    **STATE,
}
READ_OPTIONS: dict[str, t.Any] = {"show_deleted": {"type": "bool", "default": False}}
# Maximum number of characters, by option.
LENGTHS = {"display_name": 32, "description": 256}
_MAX_CONDITION = 4096
_ID = re.compile(r"(?!gcp-)[a-z0-9-]{4,32}")
# Text that needs no escaping between single quotes in CEL.
_SUBJECT = r"[^'\\\s]+"
_SUBJECTS = re.compile(rf"assertion\.sub in \[('{_SUBJECT}'(?:, '{_SUBJECT}')*)\]")
# Description of a pool that role wif created, and the beginning of a provider's description, which ends with the cluster's UID.
POOL_DESCRIPTION = "Made by pullthrough.registry_cache"
CLUSTER_DESCRIPTION = "Made by pullthrough.registry_cache for cluster "


def pools_of(project: str) -> str:
    """Return the name of the collection of a project's pools."""
    return f"projects/{project}/locations/global/workloadIdentityPools"


def providers_of(project: str, pool_id: str) -> str:
    """Return the name of the collection of a pool's providers."""
    return f"{pools_of(project)}/{pool_id}/providers"


def check_id(option: str, value: str) -> None:
    """Raise GcpError unless Google accepts this ID."""
    if not _ID.fullmatch(value):
        raise GcpError(
            f"{option}: must have 4 to 32 characters (a-z, 0-9, '-'), and must not start with 'gcp-' (got '{value}')."
            f" Example: {option}: registry-cache"
        )


def check_subject(subject: str) -> None:
    """Raise GcpError unless a condition can contain this subject."""
    if not re.fullmatch(_SUBJECT, subject):
        raise GcpError(
            f"subject: must be the claim sub of a token, without quotes, backslashes and spaces (got {subject!r})."
            " Example: subject: system:serviceaccount:registry-cache:registry-cache"
        )


def check_condition(condition: str) -> None:
    """Raise GcpError if the condition is too long."""
    if len(condition) > _MAX_CONDITION:
        raise GcpError(
            f"attribute_condition: at most {_MAX_CONDITION} characters are allowed (got {len(condition)})."
            " Admit fewer subjects: remove unused caches of this cluster, or use another provider for some of them."
            " Example: provider_id: my-cluster-2"
        )


def condition_of(subjects: t.Iterable[str]) -> str:
    """Return the attribute condition that admits only these subjects."""
    names = ", ".join(f"'{subject}'" for subject in sorted(set(subjects)))
    return f"assertion.sub in [{names}]"


def subjects_of(condition: str | None) -> list[str] | None:
    """Return the subjects that such a condition admits; none if it is empty, or None if it has another form."""
    if not condition:
        return []
    found = _SUBJECTS.fullmatch(condition)
    return re.findall(f"'({_SUBJECT})'", found[1]) if found else None


def find(module: t.Any, parent: str, kind: str, option: str, page: int) -> list[dict[str, t.Any]]:
    """Return the pool or provider with the ID in an option, or all of a parent if the option is not set. Raise GcpError.

    :param kind: field of a list that contains the objects.
    :param page: number of objects in a page.
    """
    if module.params[option] is not None:
        check_id(option, module.params[option])
    return GcpClient(module).find(API, parent, kind, module.params[option], page, module.params["show_deleted"])


class WorkloadIdentityObject(Resource):
    """A pool or a provider.

    :param parent: name of the collection, C(projects/P/locations/global/workloadIdentityPools[/POOL/providers]).
    :param id_parameter: query parameter for the ID of a new object.
    """

    added: t.ClassVar = {"state": "ACTIVE"}

    def __init__(self, client: GcpClient, parent: str, id_parameter: str, object_id: str) -> None:
        super().__init__(client, API, f"{parent}/{object_id}")
        self._parent, self._id_parameter, self._id = parent, id_parameter, object_id

    def deleted(self, current: dict[str, t.Any]) -> bool:
        """Return whether the object is deleted. Google keeps a deleted object, and its ID, for 30 days."""
        return current.get("state") == "DELETED"

    def create(self, wanted: dict[str, t.Any]) -> None:
        """Create the object. Raise GcpError."""
        self.act("POST", f"{API}/{self._parent}", body=wanted, params={self._id_parameter: self._id})

    def undelete(self) -> None:
        """Undelete the object. Raise GcpError."""
        self.act("POST", f"{self.url}:undelete", body={})

    def update(self, fields: dict[str, t.Any]) -> None:
        """Replace these fields completely. Raise GcpError."""
        self.act("PATCH", self.url, body=fields, params={"updateMask": ",".join(fields)})
