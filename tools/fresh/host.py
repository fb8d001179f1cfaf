# SPDX-License-Identifier: GPL-3.0-or-later
"""How this machine reaches package registries: proxies, mirrors, CA certificates, resolvers. A fresh root gets the same."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
import subprocess

BUNDLE = "etc/ssl/certs/ca-certificates.crt"
LOOPBACK = re.compile(r"(?<=//)(?:127\.0\.0\.1|localhost|\[::1\]):(\d+)")  # in a URL
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_GO = ("GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE", "GOINSECURE")
_PIP = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "retries", "cert")


def output(*argv: str) -> str:
    """Returns what a command prints, or nothing if it fails or does not exist."""
    try:
        return subprocess.run(argv, cwd="/", check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


@functools.cache
def variables() -> dict[str, str]:
    """Returns the environment variables that lead to this machine's registries; none if it uses the internet directly."""
    found = {name: os.environ[name] for word in _PROXIES for name in (word, word.upper()) if os.environ.get(name)}
    found |= {name: value for name, value in json.loads(output("go", "env", "-json", *_GO) or "{}").items() if value}
    for line in output("pip", "config", "list").splitlines():
        option, _, value = line.partition("=")
        name = option.rpartition(".")[2]
        if name in _PIP:
            # The root's bundle includes the certificates of this machine's.
            found[f"PIP_{name.upper().replace('-', '_')}"] = f"/{BUNDLE}" if name == "cert" else value.strip("'\"")
    return found


@functools.cache
def mirror() -> list[str]:
    """Returns the Debian mirror of this machine's package sources; empty for debootstrap's default."""
    form = "$(LABEL) $(REPO_URI)"
    targets = output("apt-get", "indextargets", "--format", form, "Created-By: Packages", "Component: main")
    return [uri for label, _, uri in (line.rpartition(" ") for line in targets.splitlines()) if label == "Debian"][:1]


def apt_settings() -> str:
    """Returns apt's settings of this machine for downloads, such as a proxy."""
    wanted = re.compile(r'Acquire::(?:https?::.*|Check-.*) "..*";')
    return "".join(f"{line}\n" for line in output("apt-config", "dump").splitlines() if wanted.fullmatch(line))


def extra_certificates(bundle: str) -> list[str]:
    """Returns the certificates that this machine trusts and that are not in a bundle."""
    named = (os.environ.get(name) for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
    files = {pathlib.Path(name) for name in named if name} | {pathlib.Path("/") / BUNDLE}
    texts = [file.read_text() for file in sorted(files) if file.is_file()]
    return sorted({text for text in _CERTIFICATE.findall("\n".join(texts)) if text.strip() not in bundle})


def resolvers() -> str:
    """Returns the lines of resolv.conf. Other namespaces cannot reach systemd's stub, so its own servers replace it."""
    behind, plain = pathlib.Path("/run/systemd/resolve/resolv.conf"), pathlib.Path("/etc/resolv.conf")
    stub = "nameserver 127.0.0.53" in plain.read_text()
    return (behind if stub and behind.exists() else plain).read_text()
