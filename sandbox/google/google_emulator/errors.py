# SPDX-License-Identifier: GPL-3.0-or-later
"""Error responses in the formats of the APIs."""

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
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
# The statuses that a fault can cause, with Google's messages. 502 is a page of its front end.
_OUTAGES = {
    429: ("RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Requests' and limit 'Requests per minute'."),
    500: ("INTERNAL", "Internal error encountered."),
    503: ("UNAVAILABLE", "The service is currently unavailable."),
    504: ("DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
}
_PAGE = "<!DOCTYPE html>\n<html lang=en>\n<title>Error 502 (Server Error)!!1</title>\n<p><b>502.</b> That's an error.\n"
OUTAGES = (*_OUTAGES, 502)


class Refusal(Exception):
    """An error response."""

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
        self.message = message


class OAuthError(Refusal):
    """The two-key body of the token endpoints (RFC 6749 section 5.2), never google.rpc.Status."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(status, {"error": error, "error_description": description})


class DockerError(Refusal):
    """Errors of the distribution spec."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, {"errors": [{"code": code, "message": message}]}, headers)


def _error_info(reason: str, domain: str, **metadata: str) -> dict[str, object]:
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": domain,
        "metadata": metadata,
    }


def permission_denied(permission: str, resource: str | None = None) -> GoogleError:
    """Returns the error for a missing permission, a missing project, or an API that was just enabled.

    resource: its full name. Errors do not name service accounts.
    """
    named = f"resource '{resource}'" if resource else "resource"
    metadata = {"permission": permission, **({"resource": resource} if resource else {})}
    return GoogleError(
        "PERMISSION_DENIED",
        f"Permission '{permission}' denied on {named} (or it may not exist).",
        [_error_info("IAM_PERMISSION_DENIED", "iam.googleapis.com", **metadata)],
    )


def scope_insufficient(api: str) -> GoogleError:
    return GoogleError(
        "PERMISSION_DENIED",
        "Request had insufficient authentication scopes.",
        [_error_info("ACCESS_TOKEN_SCOPE_INSUFFICIENT", "googleapis.com", service=api)],
    )


def service_disabled(title: str, api: str, number: str) -> GoogleError:
    """Returns the error for an API that is disabled in a project, given by its number."""
    return GoogleError(
        "PERMISSION_DENIED",
        f"{title} has not been used in project {number} before or it is disabled. Enable it by visiting "
        f"https://console.developers.google.com/apis/api/{api}/overview?project={number} then retry. If you enabled this "
        "API recently, wait a few minutes for the action to propagate to our systems and retry.",
        [_error_info("SERVICE_DISABLED", "googleapis.com", consumer=f"projects/{number}", service=api, serviceTitle=title)],
    )


def not_found() -> GoogleError:
    return GoogleError("NOT_FOUND", "Requested entity was not found.")


def outage(host: str, status: int) -> Response:
    """Returns the response of an overloaded or broken host, one of OUTAGES."""
    if status == 502:
        return Response(_PAGE, 502, media_type="text/html; charset=UTF-8")
    name, message = _OUTAGES[status]
    if host.endswith("-docker.pkg.dev"):
        code = "TOOMANYREQUESTS" if status == 429 else "UNKNOWN"
        text = "Quota exceeded for quota metric 'Requests per project per region'" if status == 429 else message
        return DockerError(status, code, text).response()
    if host in ("sts.googleapis.com", "oauth2.googleapis.com"):
        return OAuthError("internal_failure", message, status).response()  # the message is †
    return GoogleError(name, message).response()


async def answer(_request: Request, refusal: Exception) -> Response:
    """Starlette's handler for every Refusal."""
    assert isinstance(refusal, Refusal)
    return refusal.response()
