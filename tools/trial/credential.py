# SPDX-License-Identifier: GPL-3.0-or-later
"""A credential helper that returns what docker, podman or gcloud would use for an image of a registry.

`python -m tools.trial.credential HOST REPOSITORY` answers like a credential helper called with `get`.
"""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping

from sandbox.settings import ROOT

from .reference import Reference  # first, since it makes the collection's modules importable

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import registry  # isort: skip

_GCLOUD = "docker-credential-gcloud"


def find(host: str, repository: str, environ: Mapping[str, str] = os.environ) -> registry.Credential | None:
    """Returns the credential of the first source that has one; gcloud is the last.

    :raises RegistryError: a file cannot be read, or a helper fails.
    """
    files = registry.auth_files(environ)
    with tempfile.TemporaryDirectory() as folder:
        google = host == "gcr.io" or host.endswith(("-docker.pkg.dev", ".gcr.io"))
        if google and shutil.which(_GCLOUD):
            (pathlib.Path(folder) / "gcloud.json").write_text(json.dumps({"credHelpers": {host: "gcloud"}}))
            files.append(f"{folder}/gcloud.json")
        return registry.find_credential(host, repository, files)


def write_helper(path: pathlib.Path, image: Reference) -> tuple[pathlib.Path | None, str]:
    """Write the helper for an image. Returns its path, or None without a credential, and a description of the login."""
    try:
        found = find(image.host, image.repository)
    except registry.RegistryError as error:
        return None, f"anonymous: {error}"
    if not found:
        return None, "anonymous"
    argv = [sys.executable, "-m", "tools.trial.credential", image.host, image.repository]
    path.write_text(f"#!/bin/sh\ncd {shlex.quote(str(ROOT))} && exec {shlex.join(argv)}\n")
    path.chmod(0o700)
    return path, f"as {found.username}" if found.username else "with an identity token"


def main() -> None:
    server = sys.stdin.read().strip()
    try:
        found = find(sys.argv[1], sys.argv[2])
    except registry.RegistryError as error:
        sys.exit(str(error))
    if not found:
        sys.exit(f"no credential for {sys.argv[1]}")
    user, secret = ("<token>", found.identity_token) if found.identity_token else (found.username, found.password)
    print(json.dumps({"ServerURL": server, "Username": user, "Secret": secret}))


if __name__ == "__main__":
    main()
