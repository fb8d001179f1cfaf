# SPDX-License-Identifier: GPL-3.0-or-later
"""Refusals, each in the shape that its API uses."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

_HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "UNIMPLEMENTED": 501,
}


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(body)
        self.status, self.body, self.headers = status, body, dict(headers or {})

    def response(self) -> Response:
        return JSONResponse(self.body, self.status, self.headers)


class GoogleError(Refusal):
    """google.rpc.Status as the googleapis hosts send it (google.aip.dev/193)."""

    def __init__(self, status: str, message: str, details: list[dict[str, object]] | None = None) -> None:
        code = _HTTP_STATUS[status]
        error = {"code": code, "message": message, "status": status, **({"details": details} if details else {})}
        super().__init__(code, {"error": error})


class StsError(Refusal):
    """The two-key body of the token exchange (RFC 6749 section 5.2), never google.rpc.Status."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(status, {"error": error, "error_description": description})


class DockerError(Refusal):
    """Errors of the distribution spec."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, {"errors": [{"code": code, "message": message}]}, headers)


def permission_denied(permission: str, resource: str) -> GoogleError:
    """The one text for a missing permission, a missing project, or an API that was just enabled."""
    return GoogleError(
        "PERMISSION_DENIED",
        f"Permission '{permission}' denied on resource '{resource}' (or it may not exist).",
        [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "IAM_PERMISSION_DENIED",
                "domain": "iam.googleapis.com",
                "metadata": {"permission": permission, "resource": resource},
            }
        ],
    )


async def answer(_request: Request, refusal: Exception) -> Response:
    """Starlette's handler for every Refusal."""
    assert isinstance(refusal, Refusal)
    return refusal.response()
