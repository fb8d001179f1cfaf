# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workload identity pools and their providers: objects with the same life, brought to a wanted state.

Private to this collection. Source of the rules: the IAM v1 discovery document.
"""

from __future__ import annotations

import re
import typing as t

from .client import GcpClient, GcpError
from .resource import Resource
from .runner import STATE

API = "https://iam.googleapis.com/v1"
# The options of the doc fragments workload_identity and workload_identity.read.
OPTIONS: dict[str, t.Any] = {
    "pool_id": {"type": "str", "required": True},
    "display_name": {"type": "str"},
    "description": {"type": "str"},
    "disabled": {"type": "bool"},
    **STATE,
}
READ_OPTIONS: dict[str, t.Any] = {"show_deleted": {"type": "bool", "default": False}}
# Characters that Google takes, by option.
LENGTHS = {"display_name": 32, "description": 256}
_MAX_CONDITION = 4096
_ID = re.compile(r"(?!gcp-)[a-z0-9-]{4,32}")
# A text that CEL takes between single quotes as it is.
_SUBJECT = r"[^'\\\s]+"
_SUBJECTS = re.compile(rf"assertion\.sub in \[('{_SUBJECT}'(?:, '{_SUBJECT}')*)\]")
# The description of a pool that role wif made, and the beginning of a provider's, which ends with the cluster's UID.
POOL_DESCRIPTION = "Made by pullthrough.registry_cache"
CLUSTER_DESCRIPTION = "Made by pullthrough.registry_cache for cluster "


def pools_of(project: str) -> str:
    """The name of the collection of a project's pools."""
    return f"projects/{project}/locations/global/workloadIdentityPools"


def providers_of(project: str, pool_id: str) -> str:
    """The name of the collection of a pool's providers."""
    return f"{pools_of(project)}/{pool_id}/providers"


def check_id(option: str, value: str) -> None:
    """:raises GcpError: unless the id is one that Google takes."""
    if not _ID.fullmatch(value):
        raise GcpError(
            f"{option} '{value}' is not an id that Google takes: 4 to 32 of a-z, 0-9 and '-', not beginning with 'gcp-'."
            f" Example: {option}: registry-cache"
        )


def check_subject(subject: str) -> None:
    """:raises GcpError: unless a condition can name it."""
    if not re.fullmatch(_SUBJECT, subject):
        raise GcpError(
            f"subject must be a token's claim sub, without quotes, backslashes and spaces (got {subject!r})."
            " Example: subject: system:serviceaccount:registry-cache:registry-cache"
        )


def check_condition(condition: str) -> None:
    """:raises GcpError: if it is longer than Google takes."""
    if len(condition) > _MAX_CONDITION:
        raise GcpError(
            f"attribute_condition: at most {_MAX_CONDITION} characters are allowed (got {len(condition)})."
            " Admit fewer subjects: remove caches of this cluster that are no longer used, or give some another provider_id"
        )


def condition_of(subjects: t.Iterable[str]) -> str:
    """The attribute condition that admits these subjects and no other."""
    names = ", ".join(f"'{subject}'" for subject in sorted(set(subjects)))
    return f"assertion.sub in [{names}]"


def subjects_of(condition: str | None) -> list[str] | None:
    """The subjects that such a condition admits; none if it is empty, None if it is another condition."""
    if not condition:
        return []
    found = _SUBJECTS.fullmatch(condition)
    return re.findall(f"'({_SUBJECT})'", found[1]) if found else None


def find(module: t.Any, parent: str, kind: str, option: str, page: int) -> list[dict[str, t.Any]]:
    """The pool or provider whose id an option has, or all below a parent without one. Raises GcpError.

    :param kind: the name of such objects in a list.
    :param page: how many objects Google gives in one answer.
    """
    if module.params[option] is not None:
        check_id(option, module.params[option])
    return GcpClient(module).find(API, parent, kind, module.params[option], page, module.params["show_deleted"])


class WorkloadIdentityObject(Resource):
    """A pool or a provider.

    :param parent: the collection's name, C(projects/P/locations/global/workloadIdentityPools[/POOL/providers]).
    :param id_parameter: the query parameter that names a new object.
    """

    added: t.ClassVar = {"state": "ACTIVE"}

    def __init__(self, client: GcpClient, parent: str, id_parameter: str, object_id: str) -> None:
        super().__init__(client, API, f"{parent}/{object_id}")
        self._parent, self._id_parameter, self._id = parent, id_parameter, object_id

    def deleted(self, current: dict[str, t.Any]) -> bool:
        """Google keeps what was deleted for 30 days, and does not give its id out again before."""
        return current.get("state") == "DELETED"

    def create(self, wanted: dict[str, t.Any]) -> None:
        """Make the object. Raises GcpError."""
        self.act("POST", f"{API}/{self._parent}", body=wanted, params={self._id_parameter: self._id})

    def undelete(self) -> None:
        """Bring back what was deleted, as it was. Raises GcpError."""
        self.act("POST", f"{self.url}:undelete", body={})

    def update(self, fields: dict[str, t.Any]) -> None:
        """Replace these fields whole. Raises GcpError."""
        self.act("PATCH", self.url, body=fields, params={"updateMask": ",".join(fields)})
