# SPDX-License-Identifier: GPL-3.0-or-later
"""`make try`: the cache on this machine alone, in front of an emulator of Google or of a registry of yours.

python3 -m tools.trial [--upstream HOST/REPOSITORY:TAG] [--port PORT] [--once]
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import shutil
import signal
import sys
import tempfile
import time

from sandbox import environment
from sandbox.from_source import programs, tools
from sandbox.settings import PROJECT_NUMBER, UPSTREAM_HOST
from sandbox.steps import step

from . import cache, credential, ending, report
from .cache import Cache
from .errors import Refused
from .google import NAME, POOL, PROVIDER, TAGS, Google
from .reference import Reference, parse


def _build(google: bool) -> tuple[pathlib.Path, pathlib.Path, str, str]:
    """The environment's Python, crane, the program, and the helper if Google is the upstream.

    :raises Refused: there is no Go, or no way to what they are built of.
    """
    if not shutil.which("go"):
        raise Refused("there is no Go on the PATH: install Go 1.21 or later, for example by 'apt-get install golang'")
    try:
        python = environment.trial() / "bin" / "python"
        return python, tools.build("crane") / "crane", programs.registry(), programs.credential_helper() if google else ""
    except SystemExit as failure:
        raise Refused(
            "a build failed, see above: the first run needs the Go module proxy and the Python package index; "
            "behind a proxy set HTTPS_PROXY, or GOPROXY and PIP_INDEX_URL for mirrors"
        ) from failure


def _pull(crane: pathlib.Path, server: Cache) -> report.Pull:
    """Pull the image once.

    :raises Refused: the cache does not give it.
    """
    before, started = server.counts(), time.monotonic()
    result = cache.pull(crane, server)
    if result.returncode:
        said = (result.stderr.strip().splitlines() or [f"crane ended with {result.returncode}"])[-1].removeprefix("Error: ")
        raise Refused(f"{server.image} does not come through the cache ({said}): {_fix(said, server.image.host)}")
    return report.Pull(time.monotonic() - started, server.counts() - before)


def _fix(said: str, host: str) -> str:
    """What helps against an error of a registry."""
    if any(word in said for word in ("UNAUTHORIZED", "DENIED", "refuses the credential")):
        gcloud = " or 'gcloud auth login'" if host.endswith("-docker.pkg.dev") else ""
        return f"check its name, and log in by 'docker login {host}'{gcloud}"
    if any(word in said for word in ("NAME_UNKNOWN", "MANIFEST_UNKNOWN", "NOT_FOUND")):
        return "check its repository and its tag"
    return f"check that this machine reaches {host}; behind a proxy set HTTPS_PROXY"


def _emulated(stack: contextlib.ExitStack, folder: pathlib.Path, port: str) -> None:
    """The cache before the Google emulator."""
    python, crane, binary, helper = _build(google=True)
    server = Cache(folder, Reference(UPSTREAM_HOST, NAME, TAGS[0]), *cache.ports(port))
    with step("the Google emulator, with a private image") as log:
        google = Google(folder / "google", python, crane)
        stack.callback(google.stop)
        google.start()
        wif = {
            "registry_cache_wif_manage": False,
            "registry_cache_wif_project_number": PROJECT_NUMBER,
            "registry_cache_wif_pool": POOL,
            "registry_cache_wif_provider": PROVIDER,
            "registry_cache_upstreams": [{"host": UPSTREAM_HOST, "repositories": [NAME.rpartition("/")[0]]}],
        }
        server.prepare(log, python, {"trial_google": True, **wif})
        log.path = google.log
        google.fill(folder)
    with step("the cache") as log:
        log.path = server.log
        stack.callback(server.stop)
        environ = {**google.environment, "HOME": str(folder), "GOOGLE_APPLICATION_CREDENTIALS": str(folder / "credential.json")}
        server.start(binary, pathlib.Path(helper), environ)
    first = _pull(crane, server)
    with google.silent():
        second = _pull(crane, server)
    waited = " (the cache asked it for the tag, and waited 2 s)" if second.seconds > 2 else ""
    _show(server, first, second, f", while Google answers nothing{waited}", [f"{NAME}:{tag}" for tag in TAGS])


def _real(stack: contextlib.ExitStack, folder: pathlib.Path, port: str, image: Reference) -> None:
    """The cache before a registry of the user's choice."""
    server = Cache(folder, image, *cache.ports(port))
    python, crane, binary, _ = _build(google=False)
    helper, who = credential.write_helper(folder / "docker-credential-try", image)
    with step(f"the cache before {image.host}, {who}") as log:
        server.prepare(log, python, {"trial_google": False})
        log.path = server.log
        stack.callback(server.stop)
        server.start(binary, helper, {})
    first = _pull(crane, server)
    _show(server, first, _pull(crane, server), "", [image.path])


def _show(server: Cache, first: report.Pull, second: report.Pull, meanwhile: str, paths: list[str]) -> None:
    """Print what the pulls came to.

    :raises Refused: the second one did not come from the store, or the cache gives itself to everybody.
    """
    print(report.numbers(first, second, server.image.host, meanwhile), flush=True)
    if second.counts.fetched_blobs or not first.counts.fetched_blobs:
        raise Refused(f"the cache fetched the image twice or never; its log has more:\n{server.log.read_text()[-2000:]}")
    if (status := server.status("/v2/")) != 401:
        raise Refused(f"the cache answered {status} to a client without a password, not 401")
    print("password      without it the cache answers 401", flush=True)
    print(report.commands(server, paths), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tools.trial", description=__doc__)
    parser.add_argument("--upstream", type=str.strip, default="", help="an image of a registry; an emulator of Google without")
    parser.add_argument("--port", default="", help="of the cache, on loopback; a free one without")
    parser.add_argument("--once", action="store_true", help="end after the two pulls")
    arguments = parser.parse_args()
    ending.watch()
    shown = False
    try:
        with contextlib.ExitStack() as stack:
            try:
                with ending.held():
                    folder = pathlib.Path(tempfile.mkdtemp(prefix="registry-cache-try-"))
                    stack.callback(shutil.rmtree, folder, ignore_errors=True)
                if arguments.upstream:
                    _real(stack, folder, arguments.port, parse(arguments.upstream))
                else:
                    _emulated(stack, folder, arguments.port)
                shown = True
                if not arguments.once:
                    print("\nCtrl-C ends it and removes all of this.", flush=True)
                    while True:
                        signal.pause()
            finally:
                ending.ignore()
    except Refused as refused:
        sys.exit(f"make try: {refused}.")
    except ending.Ended as ended:
        print("\nEnded; nothing of it runs, and its files are removed.", flush=True)
        sys.exit(0 if shown else 128 + ended.number)


if __name__ == "__main__":
    main()
