# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong with a cluster. The text of each error is a message for the user, without a full stop at its end.

Private to this collection.
"""

from __future__ import annotations

import json
import typing as t

KUBECONFIG = "Set kubeconfig and context, or KUBECONFIG, to a cluster that answers"
_FIXES = {
    401: "Renew the credential of the kubeconfig, or set kubeconfig and context, or KUBECONFIG, to one that the cluster accepts",
    403: "Grant it to the identity of the kubeconfig, or set kubeconfig and context, or KUBECONFIG, to an identity that has it",
    404: "Create it, or check the name and the kubeconfig",
    409: "Somebody else changed it meanwhile: run again",
    429: "The API server is busy: run again in a minute",
}


class ClusterError(Exception):
    """Something that cannot be done in the cluster."""

    @property
    def words(self) -> str:
        """What is wrong, without the fix."""
        return str(self)


class UnreachableError(ClusterError):
    """There is no cluster: no usable kubeconfig, no answer, or none that makes sense."""

    def __init__(self, words: str) -> None:
        super().__init__(f"{words}. {KUBECONFIG}")
        self._words = words

    @property
    def words(self) -> str:
        return self._words


class TransientError(ClusterError):
    """A step that failed, and may succeed after a while."""


class PermanentError(ClusterError):
    """A step that fails however long one waits."""


class ApiError(ClusterError):
    """The API server refused a request.

    :param status: of HTTP.
    :param details: those of the API server's Status object.
    """

    def __init__(self, host: str, status: int, words: str, details: dict[str, t.Any]) -> None:
        super().__init__(f"{host} refuses: {words}. {_FIXES.get(status, KUBECONFIG)}")
        self.status, self._words, self.details = status, words, details

    @property
    def words(self) -> str:
        """The API server's own message, with the status."""
        return self._words


class ForbiddenError(ApiError):
    """The caller lacks a right, or an admission plugin refused the object."""


class NotFoundError(ApiError):
    """There is no such object, or the cluster does not know its kind."""


class ConflictError(ApiError):
    """Somebody else has created, changed or removed the object meanwhile."""


_KINDS = {403: ForbiddenError, 404: NotFoundError, 409: ConflictError}


def of_response(host: str, status: int, reason: t.Any, body: t.Any) -> ApiError:
    """The error of an answer.

    :param reason: of HTTP, the message where the body is no Status object.
    """
    try:
        answer = json.loads(body)
        message, details = answer["message"], answer.get("details") or {}
    except (ValueError, LookupError, TypeError, AttributeError):
        message, details = reason, {}
    return _KINDS.get(status, ApiError)(host, status, f"HTTP {status}: {message}", details)


_SHOWN = 5


def some(names: t.Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
