# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Google service accounts.

Private to this collection. Source of the rules: the IAM v1 discovery document.
"""

from __future__ import annotations

import typing as t

from .client import GcpClient, GcpError, stripped
from .resource import Resource

API = "https://iam.googleapis.com/v1"


def email(account_id: str, project: str) -> str:
    """Return the email address of a service account."""
    # For a domain-scoped project, example.com:name, the domain comes last.
    return f"{account_id}@{'.'.join(reversed(project.split(':')))}.iam.gserviceaccount.com"


class ServiceAccount(Resource):
    """A service account of a project."""

    def __init__(self, client: GcpClient, project: str, account_id: str) -> None:
        address = email(account_id, project)
        super().__init__(client, API, f"projects/{project}/serviceAccounts/{address}")
        self.added = {"email": address, "projectId": project}  # type: ignore[misc]
        self._parent, self._id = f"{API}/projects/{project}/serviceAccounts", account_id

    def create(self, wanted: dict[str, t.Any]) -> dict[str, t.Any]:
        """Create the account; return it. Raise GcpError."""
        texts = {field: value for field, value in wanted.items() if field != "disabled"}
        self.client.request("POST", self._parent, self.name, body={"accountId": self._id, "serviceAccount": texts})
        # Google needs a few seconds until it returns a new account and allows changes to it.
        retry = self.client.budget.retry
        account = retry(lambda: self.client.request("GET", self.url, self.name), _is_not_found)
        if wanted.get("disabled"):
            return retry(lambda: self._switch(account, True), _is_not_found)
        return account

    def update(self, fields: dict[str, t.Any]) -> dict[str, t.Any] | None:
        """Replace these fields; return the account, or None to have it read. Raise GcpError."""
        texts = {field: value for field, value in fields.items() if field != "disabled"}
        account = None
        if texts:
            body = {"serviceAccount": texts, "updateMask": ",".join(texts)}
            account = self.client.request("PATCH", self.url, self.name, body=body)
        return self._switch(account, fields["disabled"]) if "disabled" in fields else account

    def delete(self) -> None:
        """Delete the account. Raises GcpError."""
        self.client.request("DELETE", self.url, self.name)

    def _switch(self, account: dict[str, t.Any] | None, disabled: bool) -> dict[str, t.Any] | None:
        """Enable or disable the account; return the account with the new state, or None if it was not read. Raise GcpError."""
        verb = "disable" if disabled else "enable"
        self.client.request("POST", f"{self.url}:{verb}", self.name, body={})
        return account and stripped({**account, "disabled": disabled})


def _is_not_found(error: GcpError) -> bool:
    return error.status == 404
