# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of a cluster. The text of each error is a message for the user, without a final full stop.

Private to this collection.
"""

from __future__ import annotations

import json
import typing as t

KUBECONFIG = "Set kubeconfig and context, or KUBECONFIG, to a cluster that answers. Example: kubeconfig: ~/.kube/config"
_FIXES = {
    401: "Renew the credential in the kubeconfig, or choose another kubeconfig or context. Example: kubeconfig: ~/.kube/config",
    403: "Grant the permission to the identity in the kubeconfig, or choose another context. Example: context: my-cluster-admin",
    404: "Create it, or check its name and the kubeconfig. Example: kubeconfig: ~/.kube/config",
    409: "It was changed by someone else in the meantime: run again",
    429: "The API server is overloaded: run again in a minute",
}


class ClusterError(Exception):
    """Something that cannot be done in the cluster."""

    @property
    def words(self) -> str:
        """The problem, without the fix."""
        return str(self)


class UnreachableError(ClusterError):
    """The cluster cannot be used: no valid kubeconfig, no answer, or an unusable answer."""

    def __init__(self, words: str) -> None:
        super().__init__(f"{words}. {KUBECONFIG}")
        self._words = words

    @property
    def words(self) -> str:
        return self._words


class TransientError(ClusterError):
    """A step that failed but may succeed later."""


class PermanentError(ClusterError):
    """A step that failed and will fail again."""


class ApiError(ClusterError):
    """The API server refused a request.

    :param status: HTTP status.
    :param details: details of the API server's Status object.
    """

    def __init__(self, host: str, status: int, words: str, details: dict[str, t.Any]) -> None:
        super().__init__(f"{host} refuses: {words}. {_FIXES.get(status, KUBECONFIG)}")
        self.status, self._words, self.details = status, words, details

    @property
    def words(self) -> str:
        """The HTTP status and the API server's own message."""
        return self._words


class ForbiddenError(ApiError):
    """The caller lacks a permission, or an admission plugin refused the object."""


class NotFoundError(ApiError):
    """The object does not exist, or the cluster does not have its kind."""


class ConflictError(ApiError):
    """The object was created, changed or removed by someone else in the meantime."""


_KINDS = {403: ForbiddenError, 404: NotFoundError, 409: ConflictError}


def of_response(host: str, status: int, reason: t.Any, body: t.Any) -> ApiError:
    """Return the error for an answer of the API server.

    :param reason: HTTP reason phrase, which is the message if the body is not a Status object.
    """
    try:
        answer = json.loads(body)
        message, details = answer["message"], answer.get("details") or {}
    except (ValueError, LookupError, TypeError, AttributeError):
        message, details = reason, {}
    return _KINDS.get(status, ApiError)(host, status, f"HTTP {status}: {message}", details)


_SHOWN = 5


def some(names: t.Iterable[str]) -> str:
    """Return the first few names, and the number of the others."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
