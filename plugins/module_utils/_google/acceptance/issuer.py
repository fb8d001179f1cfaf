# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A token issuer for tests, and keys that Google refuses.

Private to this collection.
"""

from __future__ import annotations

import base64
import json
import traceback
import typing as t

IMPORT_ERROR: str | None = None
try:
    import google.auth.crypt
    import google.auth.jwt
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
except ImportError:
    IMPORT_ERROR = traceback.format_exc()


class Signer:
    """A token issuer with an RSA key."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._numbers = key.public_key().public_numbers()

    def jwks(self) -> str:
        """Return the public key as a JWKS."""
        key = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": self.key_id}
        return json.dumps({"keys": [{**key, "n": _number(self._numbers.n), "e": _number(self._numbers.e)}]})

    def token(self, key_id: str = "", **claims: t.Any) -> str:
        """Return a signed token. key_id: the key ID in its header, by default that of the key."""
        signer = google.auth.crypt.RSASigner.from_string(self._key, key_id or self.key_id)
        return google.auth.jwt.encode(signer, claims).decode()


def _number(value: int) -> str:
    """Return a number as Base64urlUInt (RFC 7518 section 2)."""
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


def unsupported_jwks() -> str:
    """Return a JWKS with a key of a kind that Google does not support."""
    numbers = ec.generate_private_key(ec.SECP384R1()).public_key().public_numbers()
    key = {"kty": "EC", "crv": "P-384", "alg": "ES384", "use": "sig", "kid": "p384"}
    x, y = (base64.urlsafe_b64encode(value.to_bytes(48, "big")).rstrip(b"=").decode() for value in (numbers.x, numbers.y))
    return json.dumps({"keys": [{**key, "x": x, "y": y}]})
