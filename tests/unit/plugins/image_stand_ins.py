# SPDX-License-Identifier: GPL-3.0-or-later
"""A small registry on loopback, and stand-ins for docker and podman."""

from __future__ import annotations

import base64
import json
import pathlib
import sys
import urllib.parse

from tests.http_server import HttpServer, QuietHandler

DIGEST = "sha256:" + "ab" * 32


class Registry(HttpServer):
    """Answers HEAD requests for manifests. auth: none, basic or bearer. anonymous: whether it issues tokens without a credential."""

    def __init__(self, auth: str = "none") -> None:
        self.auth = auth
        self.user = ("ada", "s3cret")
        self.identity = "refresh-me"
        self.anonymous = False
        self.tags: dict[str, str] = {"there": DIGEST, DIGEST: DIGEST}
        self.status: int | None = None
        self.scopes: list[str] = []
        outer = self

        class Handler(QuietHandler):
            def _say(self, status: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def _basic(self) -> bool:
                expected = base64.b64encode(":".join(outer.user).encode()).decode()
                return self.headers.get("Authorization") == f"Basic {expected}"

            def _token(self, allowed: bool, query: dict[str, list[str]]) -> None:
                outer.scopes += query["scope"]
                if allowed:
                    self._say(200, b'{"access_token": "t0ken"}')
                else:
                    self._say(401, b'{"errors": [{"code": "UNAUTHORIZED", "message": "wrong password"}]}')

            def do_GET(self) -> None:
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                self._token(self._basic() or (outer.anonymous and "Authorization" not in self.headers), query)

            def do_POST(self) -> None:
                form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self._token(form["refresh_token"] == [outer.identity] and form["grant_type"] == ["refresh_token"], form)

            def do_HEAD(self) -> None:
                if outer.status:
                    return self._say(outer.status)
                if outer.auth == "basic" and not self._basic():
                    return self._say(401, WWW_Authenticate='Basic realm="r"')
                if outer.auth == "bearer" and self.headers.get("Authorization") != "Bearer t0ken":
                    realm = f'Bearer realm="http://{outer.host}/token",service="s"'
                    return self._say(401, WWW_Authenticate=realm)
                digest = outer.tags.get(self.path.rpartition("/")[2])
                return self._say(200, Docker_Content_Digest=digest) if digest else self._say(404)

        super().__init__(Handler)


# Keeps its images in files. For a command, it prints the file `WORD.out` of a test, and exits with the code in `WORD.rc`.
_PROGRAM = """#!{python} -IS
import json, os, pathlib, shutil, sys, time, urllib.parse
home = pathlib.Path({home!r})
words = sys.argv[1:]
text = (home / "held").read_text()
held = json.loads(text)
with (home / "calls").open("a") as calls:
    names = ("DOCKER_CONFIG", "TARGETARCH", "GOPROXY", "https_proxy", "DOCKER_BUILDKIT", "BUILDX_NO_DEFAULT_ATTESTATIONS")
    env = {{k: os.environ.get(k) for k in names}}
    config = os.environ.get("DOCKER_CONFIG")
    auth = pathlib.Path(config, "config.json") if config else None
    if "--authfile" in words:
        auth = pathlib.Path(words[words.index("--authfile") + 1])
    env["auth"] = auth.read_text() if auth and auth.exists() else None
    calls.write(json.dumps([words, env]) + "\\n")
word = words[1] if words[0] in ("image", "manifest") else words[0]
rc = home / f"{{word}}.rc"
out = home / f"{{word}}.out"
left = int(rc.read_text()) if rc.exists() else 0
if left:
    rc.write_text(str(left - 1) if left < 90 else "99")
    sys.exit(print(out.read_text(), file=sys.stderr) or 1)
if word in ("version", "info"):
    print("linux/amd64")
elif words[0] == "image":
    image = words[-1]
    if image not in held:
        sys.exit(1)
    print('["x@sha256:ba5e"]' if "RepoDigests" in words[3] else held[image])
elif word == "pull":
    held[words[-1]] = words[2]
elif word == "build":
    slow = home / "slow"
    time.sleep(float(slow.read_text()) if slow.exists() else 0)
    held[words[words.index("--tag") + 1]] = "linux/" + os.environ["TARGETARCH"]
    print("Step 1/1 : something")
    shutil.copytree(words[-1], home / pathlib.Path(words[-1]).name, dirs_exist_ok=True)
elif word == "tag":
    held[words[2]] = held[words[1]]
elif word == "create" and words[0] == "create":
    print("c0ffee")
elif word == "cp":
    pathlib.Path(words[2], "registry.cdx.json").write_text("sbom")
elif word == "save":
    pathlib.Path(words[words.index("--output") + 1]).write_text("archive of " + words[-1])
elif word == "buildx":
    sys.exit(0 if (home / "has-buildx").exists() else 1)
elif words[0] == "manifest":
    # Like docker and podman, it has one list of images for each name.
    flags = ("--insecure", "--all", "--tls-verify=false", "--tls-verify=true", "--authfile", "--amend")
    names = [name for name in words[2:] if name not in flags and not name.endswith("auth.json")]
    index = pathlib.Path(config or home, urllib.parse.quote(names[0], safe=""))
    if word == "inspect":
        sys.exit(0 if index.exists() else 1)
    elif word == "create":
        if index.exists():
            sys.exit(print("that name is already in use", file=sys.stderr) or 125)
        index.write_text(json.dumps(names[1:]))
    elif not index.exists():
        sys.exit(print("no such manifest", file=sys.stderr) or 125)
    elif word == "add":
        index.write_text(json.dumps([*json.loads(index.read_text()), names[1]]))
    elif word == "push":
        with (home / "pushed").open("a") as pushed:
            pushed.write(json.dumps([names[-1].partition("//")[2] or names[-1], json.loads(index.read_text())]) + "\\n")
    elif word == "rm":
        index.unlink()
if json.dumps(held) != text:
    (home / "new").write_text(json.dumps(held))
    (home / "new").rename(home / "held")
"""


class Program:
    """A stand-in for docker or podman, with its recorded calls and prepared answers."""

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        self.home = folder / f"{name}-home"
        self.home.mkdir()
        (self.home / "held").write_text("{}")
        (folder / "bin").mkdir(exist_ok=True)
        program = folder / "bin" / name
        program.write_text(_PROGRAM.format(python=sys.executable, home=str(self.home)))
        program.chmod(0o755)

    def fail(self, word: str, text: str, times: int = 99) -> None:
        """Let a command fail that many times, with this message."""
        (self.home / f"{word}.out").write_text(text)
        (self.home / f"{word}.rc").write_text(str(times))

    @property
    def calls(self) -> list[tuple[list[str], dict[str, str | None]]]:
        file = self.home / "calls"
        return [tuple(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def pushed(self) -> list[tuple[str, list[str]]]:
        """The pushed indexes, with their images."""
        file = self.home / "pushed"
        return [tuple(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []

    def called(self, word: str) -> list[tuple[list[str], dict[str, str | None]]]:
        return [call for call in self.calls if call[0][0] == word]

    @property
    def held(self) -> dict[str, str]:
        return dict(json.loads((self.home / "held").read_text()))

    def hold(self, image: str, platform: str) -> None:
        (self.home / "held").write_text(json.dumps({**self.held, image: platform}))
