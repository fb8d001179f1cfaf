# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workload identity pools and their providers: objects with the same life, brought to a wanted state.

Private to this collection. Source of the rules: the IAM v1 discovery document.
"""

from __future__ import annotations

import re
import typing as t

from ._gcp import GcpClient, GcpError, stripped

API = "https://iam.googleapis.com/v1"
# The options of doc fragment workload_identity.
OPTIONS: dict[str, t.Any] = {
    "pool_id": {"type": "str", "required": True},
    "display_name": {"type": "str"},
    "description": {"type": "str"},
    "disabled": {"type": "bool"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "wait_timeout": {"type": "int", "default": 120},
}
_ID = re.compile(r"(?!gcp-)[a-z0-9-]{4,32}")
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]*")  # with ':' where a domain holds it


def check_id(option: str, value: str) -> None:
    """:raises GcpError: unless the id is one that Google takes."""
    if not _ID.fullmatch(value):
        raise GcpError(
            f"{option} '{value}' is not an id that Google takes: 4 to 32 of a-z, 0-9 and '-', not beginning with 'gcp-'."
            f" Example: {option}: registry-cache"
        )


def check_project(project: str | None) -> None:
    """:raises GcpError: unless it is the id or number of a project."""
    if not project or not _PROJECT.fullmatch(project):
        raise GcpError(f"project '{project or ''}' is no project's id or number. Example: project: my-project")


class WorkloadIdentityObject:
    """A pool or a provider.

    :param parent: the collection's name, C(projects/P/locations/global/workloadIdentityPools[/POOL/providers]).
    :param id_parameter: the query parameter that names a new object.
    :param same: compares one field; plain equality unless given.
    """

    def __init__(
        self,
        client: GcpClient,
        parent: str,
        id_parameter: str,
        object_id: str,
        wait_seconds: float,
        same: t.Callable[[str, t.Any, t.Any], bool] = lambda _field, one, other: one == other,
    ) -> None:
        self._client, self._parent, self._id_parameter, self._id = client, parent, id_parameter, object_id
        self._seconds, self._same = wait_seconds, same
        self.name = f"{parent}/{object_id}"

    def read(self) -> dict[str, t.Any] | None:
        """The object as it is; a soft-deleted one answers with state DELETED."""
        return self._client.get(f"{API}/{self.name}", self.name)

    def _act(self, method: str, url: str, body: t.Any = None, params: dict[str, t.Any] | None = None) -> None:
        operation = self._client.request(method, url, self.name, body=body, params=params)
        self._client.wait(operation, API, self.name, self._seconds)

    def differing(self, current: dict[str, t.Any], wanted: dict[str, t.Any]) -> list[str]:
        """The wanted top-level fields that are not so; compared whole, so that a removed key counts."""
        current = stripped(current)
        return sorted(
            field
            for field, value in wanted.items()
            if not self._same(field, current.get(field), stripped({"_": value}).get("_"))
        )

    def ensure_present(self, wanted: dict[str, t.Any], check_mode: bool) -> tuple[bool, dict[str, t.Any], dict[str, t.Any]]:
        """Create, undelete or patch.

        :return: whether that is a change, the object before, the object after.
        """
        before = self.read()
        if before is None:
            predicted = {"name": self.name, "state": "ACTIVE", **stripped(wanted)}
            if check_mode:
                return True, {}, predicted
            try:
                self._act("POST", f"{API}/{self._parent}", body=stripped(wanted), params={self._id_parameter: self._id})
                return True, {}, self.read() or predicted
            except GcpError as error:
                # Two clusters of one play share a pool: the other one was faster.
                before = self.read() if error.status == 409 else None
                if before is None:
                    raise
        deleted = before.get("state") == "DELETED"
        fields = self.differing(before, wanted)
        if not deleted and not fields:
            return False, before, before
        if not check_mode:
            if deleted:  # an id cannot be reused for 30 days after its deletion
                self._act("POST", f"{API}/{self.name}:undelete", body={})
            if fields:
                body = {field: wanted[field] for field in fields}
                self._act("PATCH", f"{API}/{self.name}", body=body, params={"updateMask": ",".join(fields)})
        # What is undeleted loses the time of its end.
        predicted = stripped({**before, "state": "ACTIVE", "expireTime": None, **{field: wanted[field] for field in fields}})
        return True, before, predicted if check_mode else self.read() or predicted

    def ensure_absent(self, check_mode: bool) -> tuple[bool, dict[str, t.Any], dict[str, t.Any]]:
        """Delete unless it is deleted; Google keeps it for 30 days."""
        before = self.read()
        if before is None or before.get("state") == "DELETED":
            return False, {}, {}
        if not check_mode:
            self._act("DELETE", f"{API}/{self.name}")
        return True, before, {}
