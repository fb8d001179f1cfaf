# SPDX-License-Identifier: GPL-3.0-or-later
"""`make try`: run the cache on this machine without a cluster, in front of an emulator of Google or a registry of your choice.

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
    """Build what is missing. Returns the environment's Python, crane, the cache's program, and Google's helper if wanted.

    :raises Refused: Go is not installed, or a build failed.
    """
    if not shutil.which("go"):
        raise Refused("Go is not on the PATH: install Go 1.21 or later, for example by 'apt-get install golang'")
    try:
        python = environment.trial() / "bin" / "python"
        return python, tools.build("crane") / "crane", programs.registry(), programs.credential_helper() if google else ""
    except SystemExit as failure:
        raise Refused(
            "a build failed, see above: the first run downloads from the Go module proxy and the Python package index; "
            "behind a proxy set HTTPS_PROXY, or set GOPROXY and PIP_INDEX_URL to mirrors"
        ) from failure


def _pull(crane: pathlib.Path, server: Cache) -> report.Pull:
    """Pull the image once.

    :raises Refused: the pull fails.
    """
    before, started = server.counts(), time.monotonic()
    result = cache.pull(crane, server)
    if result.returncode:
        said = (result.stderr.strip().splitlines() or [f"crane failed with exit code {result.returncode}"])[-1].removeprefix("Error: ")
        raise Refused(f"the cache could not pull {server.image} ({said}): {_fix(said, server.image.host)}")
    return report.Pull(time.monotonic() - started, server.counts() - before)


def _fix(said: str, host: str) -> str:
    """Returns the fix for an error of a registry."""
    if any(word in said for word in ("UNAUTHORIZED", "DENIED", "refuses the credential")):
        gcloud = " or 'gcloud auth login'" if host.endswith("-docker.pkg.dev") else ""
        return f"check the name, and log in with 'docker login {host}'{gcloud}"
    if any(word in said for word in ("NAME_UNKNOWN", "MANIFEST_UNKNOWN", "NOT_FOUND")):
        return "check the repository and the tag"
    return f"check that this machine reaches {host}; behind a proxy set HTTPS_PROXY"


def _emulated(stack: contextlib.ExitStack, folder: pathlib.Path, port: str) -> str:
    """Run the cache in front of the Google emulator. Returns commands to try."""
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
    waited = " (the cache waits 2 s for Google before it uses the stored tag)" if second.seconds > 2 else ""
    _show(server, first, second, f", while Google did not answer{waited}")
    return report.commands(server, [f"{NAME}:{tag}" for tag in TAGS])


def _real(stack: contextlib.ExitStack, folder: pathlib.Path, port: str, image: Reference) -> str:
    """Run the cache in front of a registry of the user's choice. Returns commands to try."""
    server = Cache(folder, image, *cache.ports(port))
    python, crane, binary, _ = _build(google=False)
    helper, who = credential.write_helper(folder / "docker-credential-try", image)
    with step(f"the cache in front of {image.host}, {who}") as log:
        server.prepare(log, python, {"trial_google": False})
        log.path = server.log
        stack.callback(server.stop)
        server.start(binary, helper, {})
    first = _pull(crane, server)
    _show(server, first, _pull(crane, server), "")
    return report.commands(server, [image.path])


def _show(server: Cache, first: report.Pull, second: report.Pull, meanwhile: str) -> None:
    """Print the figures of both pulls.

    :raises Refused: the second pull did not come from the store, or the cache answers clients without a password.
    """
    print(report.numbers(first, second, server.image.host, meanwhile), flush=True)
    if second.counts.fetched_blobs or not first.counts.fetched_blobs:
        raise Refused(f"the cache did not fetch the image exactly once; the end of its log:\n{server.log.read_text()[-2000:]}")
    if (status := server.status("/v2/")) != 401:
        raise Refused(f"the cache answered {status} instead of 401 to a client without a password")
    print("no password   the cache refuses the pull (HTTP 401)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tools.trial", description=(__doc__ or "").partition("\n\n")[0])
    upstream = "an image to pull, such as ghcr.io/owner/image:1.0 (default: one of the Google emulator)"
    parser.add_argument("--upstream", type=str.strip, default="", help=upstream)
    parser.add_argument("--port", default="", help="the port of the cache on loopback (default: a free one)")
    parser.add_argument("--once", action="store_true", help="stop after the two pulls")
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
                    commands = _real(stack, folder, arguments.port, parse(arguments.upstream))
                else:
                    commands = _emulated(stack, folder, arguments.port)
                shown = True
                if not arguments.once:
                    print(f"{commands}\n\nCtrl-C stops the cache and removes these files.", flush=True)
                    while True:
                        signal.pause()
            finally:
                ending.ignore()
        print("\nStopped, and all files are removed. Without ONCE=1, the cache keeps running for you to try.", flush=True)
    except Refused as refused:
        sys.exit(f"make try: {refused}.")
    except ending.Ended as ended:
        print("\nStopped. All processes have ended, and their files are removed.", flush=True)
        sys.exit(0 if shown else 128 + ended.number)


if __name__ == "__main__":
    main()
