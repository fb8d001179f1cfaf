# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks workload identity pools and providers, like IAM.

Limits and messages are from the discovery document of iam.googleapis.com v1, and from answers in public issues.
"""

from __future__ import annotations

import json
import re
from urllib.parse import urlsplit

import jwt

from . import cel
from .errors import GoogleError
from .store import Resource

_ATTRIBUTE = re.compile(r"google\.subject|google\.groups|attribute\.[a-z0-9_]{1,100}")
_ID = re.compile(r"[a-z0-9-]{4,32}")
_MAX_CUSTOM_ATTRIBUTES = 50
_KINDS = ("oidc", "aws", "saml", "x509")
# Google's documentation of keys: "include only the following fields".
_KEY_MEMBERS = {"kty", "alg", "use", "kid", "n", "e", "x", "y", "crv"}
# These issuers sign tokens for anyone, so a provider without a condition would accept everybody.
_PUBLIC_ISSUERS = ("https://token.actions.githubusercontent.com", "https://gitlab.com")


def _refuse(message: str) -> GoogleError:
    return GoogleError("INVALID_ARGUMENT", message)


def check_id(parameter: str, value: str) -> None:
    if not _ID.fullmatch(value) or value.startswith("gcp-"):
        raise _refuse(
            f"Invalid {parameter} '{value}'. It must be 4-32 characters of [a-z0-9-]; the prefix 'gcp-' is reserved."
        )


def check_pool(pool: Resource) -> None:
    for field, limit in (("displayName", 32), ("description", 256)):
        if len(pool.get(field, "")) > limit:
            raise _refuse(f"The field {field} must not exceed {limit} characters.")


def check_provider(provider: Resource) -> None:
    check_pool(provider)
    kinds = [kind for kind in _KINDS if kind in provider]
    if len(kinds) > 1:
        raise _refuse(f"A provider must be of exactly one kind, got {' and '.join(kinds)}.")  # the message is †
    if not kinds or "oidc" in kinds:
        _check_oidc(provider.get("oidc", {}))
    _check_mapping(provider.get("attributeMapping", {}))
    condition = provider.get("attributeCondition", "")
    if len(condition) > 4096:
        raise _refuse("The attribute condition must not exceed 4096 characters.")
    if condition:
        _compile("attribute condition", condition, {"assertion", "google", "attribute"})
    if provider.get("oidc", {}).get("issuerUri") in _PUBLIC_ISSUERS and "assertion" not in condition:
        raise _refuse("The attribute condition must reference one of the provider's claims.")


def _check_oidc(oidc: Resource) -> None:
    issuer = oidc.get("issuerUri", "")
    if urlsplit(issuer).scheme != "https":
        raise _refuse("Invalid OIDC issuer URI. The scheme must be https.")
    audiences = oidc.get("allowedAudiences", [])
    if len(audiences) > 10 or any(len(audience) > 256 for audience in audiences):
        raise _refuse("At most 10 allowed audiences of at most 256 characters each can be configured.")
    if "jwksJson" in oidc:
        _check_jwks(oidc["jwksJson"])


def _check_jwks(text: str) -> None:
    try:
        keys = json.loads(text)["keys"]
        if not keys:
            raise ValueError("it has no key")
        for key in keys:
            if unknown := sorted(key.keys() - _KEY_MEMBERS):  # † the message, and whether Google refuses or ignores them
                raise ValueError(f"unknown field {unknown[0]}")
            if key["kty"] != "RSA" and (key["kty"], key.get("crv")) != ("EC", "P-256"):
                raise ValueError(f"key type {key['kty']} {key.get('crv', '')}")
            jwt.PyJWK(key, algorithm="RS256" if key["kty"] == "RSA" else "ES256")
    except (ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
        raise _refuse(f"Invalid JWKS: {error}. Only RSA and EC P-256 keys are supported.") from None


def _check_mapping(mapping: dict[str, str]) -> None:
    if "google.subject" not in mapping:
        raise _refuse("The attribute mapping must contain the key google.subject.")
    if sum(key.startswith("attribute.") for key in mapping) > _MAX_CUSTOM_ATTRIBUTES:
        raise _refuse(f"At most {_MAX_CUSTOM_ATTRIBUTES} custom attributes can be mapped.")
    for key, expression in mapping.items():
        if not _ATTRIBUTE.fullmatch(key):
            raise _refuse(
                f"Invalid mapped attribute key: {key}. It must be google.subject, google.groups "
                "or attribute.NAME with a NAME of at most 100 characters of [a-z0-9_]."
            )
        if len(expression) > 2048:
            raise _refuse(f"The expression of the mapped attribute {key} must not exceed 2048 characters.")
        _compile(f"mapped attribute {key}", expression, {"assertion"})


def _compile(what: str, expression: str, variables: set[str]) -> None:
    try:
        cel.check(expression, variables)
    except cel.CelError as error:
        raise _refuse(f"Error compiling the CEL expression of the {what}: {error}") from None
