# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes the place of a cluster that signs tokens of service accounts: writes a public key and a token.

`python -m tools.trial.identity FOLDER AUDIENCE` writes `jwks.json` and `token`. Needs PyJWT.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from .google import ISSUER, SUBJECT

SECONDS = 23 * 3600  # Google rejects tokens older than a day


def write(folder: pathlib.Path, audience: str) -> None:
    """Write a public key, and a token that was signed with its private key."""
    private = ec.generate_private_key(ec.SECP256R1())
    public = jwt.algorithms.ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    public.pop("key_ops", None)  # Google rejects this member
    now = int(time.time())
    claims = {"iss": ISSUER, "sub": SUBJECT, "aud": [audience], "iat": now, "exp": now + SECONDS}
    (folder / "jwks.json").write_text(json.dumps({"keys": [{**public, "kid": "trial"}]}))
    (folder / "token").write_text(jwt.encode(claims, private, "ES256", headers={"kid": "trial"}))


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]), sys.argv[2])
