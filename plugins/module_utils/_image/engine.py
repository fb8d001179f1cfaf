# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds, pushes and saves images by the command line of docker or podman, whichever answers.

Private to this collection.
"""

from __future__ import annotations

# run_command neither shows output while a build runs nor ends after a time.
# pylint: disable=ansible-bad-function
import collections
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import typing as t

from .errors import EngineError, ImageError

_ASK_SECONDS = 30
_TAIL_LINES = 15


class Log:
    """Where the output of commands goes as it comes."""

    def __init__(self, path: str | None) -> None:
        self._path = path

    def write(self, text: str) -> None:
        if self._path:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(text)


def architecture(platform: str) -> str:
    return platform.split("/")[1]


class Engine:
    """docker or podman; what both do alike.

    :param platform: the engine's own, such as C(linux/amd64).
    """

    name: str
    # Of the runs that C(alone) lets in one after the other; others use other names for what they make for a while.
    scope = ""

    def __init__(self, program: str, platform: str, log: Log) -> None:
        self.program = program
        self.platform = platform
        self.log = log

    @contextlib.contextmanager
    def alone(self) -> t.Iterator[None]:
        """Wait for other runs of this user, then hold the engine: builds share the name of their base, which has one platform at
        a time, and archives the name of the image."""
        folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "pullthrough.registry_cache")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Closed by the kernel however the process ends. The file stays, or two runs could hold one each.
            lock = open(folder / f"{self.name}.lock", "a", encoding="utf-8")  # noqa: SIM115  # pylint: disable=consider-using-with
        except OSError as error:
            raise EngineError(
                f"{folder}, where runs that build wait for each other, cannot be written ({error.strerror})."
                " Name a folder that can, in the environment of the playbook. Example: XDG_CACHE_HOME=/var/cache/ansible"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.log.write(f"Another run uses {self.name} on this host. Waiting for it to end.\n")
                fcntl.flock(lock, fcntl.LOCK_EX)
            status = os.fstat(lock.fileno())
            own = f"{os.uname().nodename} {status.st_dev} {status.st_ino}"
            self.scope = hashlib.sha256(own.encode()).hexdigest()[:8]
            yield

    # What each of the two asks its command line.
    version: tuple[str, ...]

    def ask(self, *words: str) -> str | None:
        """The output of a short command, or None where it fails."""
        result = subprocess.run(
            [self.program, *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        return result.stdout.strip() if result.returncode == 0 else None

    def run(self, *words: str, env: t.Mapping[str, str] | None = None) -> str:
        """Run a command, its output logged as it comes; returns its last lines.

        :raises EngineError: with those lines.
        """
        self.log.write(f"$ {self.name} {' '.join(words)}\n")
        last: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        with subprocess.Popen(
            [self.program, *words],
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            for line in process.stdout or ():
                if line.strip():
                    last.append(line.rstrip())
                    self.log.write(line.rstrip() + "\n")
        output = "\n".join(last)
        if process.returncode:
            raise EngineError(f"'{self.name} {words[0]}' ended with {process.returncode}", output)
        return output

    def platform_of(self, image: str) -> str | None:
        """The platform of an image that the engine holds."""
        return self.ask("image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", image)

    def digest_of(self, image: str) -> str | None:
        """The digest under which the engine pulled an image."""
        found = json.loads(self.ask("image", "inspect", "--format", "{{json .RepoDigests}}", image) or "null")
        return found[0].rpartition("@")[2] if found else None

    def tag(self, image: str, name: str) -> None:
        self.run("tag", image, name)

    def pull(self, image: str, platform: str) -> None:
        """Bring an image for a platform; one that the engine holds serves where none can be pulled.

        :raises EngineError: there is none for that platform.
        """
        try:
            self.run("pull", "--platform", platform, image)
        except EngineError:
            if self.platform_of(image) != platform:
                raise
            self.log.write(f"{image} cannot be pulled: the copy that {self.name} holds serves.\n")

    def build(
        self,
        context: str,
        name: str,
        platform: str,
        args: t.Mapping[str, str],
        labels: t.Mapping[str, str],
        network: str | None,
    ) -> None:
        """Build for a platform. Arguments go by the environment: a process list shows none of them.

        Labels go by the command line: podman's cache keeps those of an older build when only an argument has changed.
        """
        platforms = {
            "BUILDPLATFORM": self.platform,
            "TARGETPLATFORM": platform,
            "TARGETOS": platform.split("/", maxsplit=1)[0],
            "TARGETARCH": architecture(platform),
        }
        words = [word for key in {**platforms, **args} for word in ("--build-arg", key)]
        words += [word for label, text in labels.items() for word in ("--label", f"{label}={text}")]
        words += ["--network", network] if network else []
        flags, env = self.build_flags(platform)
        self.run("build", *flags, *words, "--tag", name, context, env={**platforms, **args, **env})

    def check_platform(self, name: str, platform: str) -> None:
        """Remove an image that was built for another platform. Raises EngineError for it."""
        if (built := self.platform_of(name)) != platform:
            # A run of another user, for whom `alone` does not wait, has pulled the base for another platform meanwhile.
            self.run("rmi", name)
            raise EngineError(f"the base image was replaced while it was used, so that {name} is of {built} and not of {platform}")

    def build_flags(self, platform: str) -> tuple[list[str], dict[str, str]]:
        raise NotImplementedError

    def copy_out(self, image: str, target: str) -> None:
        """Copy an image's files into a folder. Nothing of the image runs."""
        container = self.run("create", image, "none").splitlines()[-1]
        try:
            self.run("cp", f"{container}:/.", target)
        finally:
            self.run("rm", container)

    def save(self, name: str, file: str) -> None:
        raise NotImplementedError

    def push(self, index: str, images: t.Sequence[str], auth: dict[str, t.Any] | None, insecure: bool) -> None:
        """Push images, then the index that names them: nothing is under the index's name before all of them are there."""
        raise NotImplementedError


class Docker(Engine):
    name = "docker"
    version = ("version", "--format", "{{.Server.Os}}/{{.Server.Arch}}")

    def build_flags(self, platform: str) -> tuple[list[str], dict[str, str]]:
        if self.ask("buildx", "version") is None:
            # The older builder: `--platform` would be asked of each stage, also of the one that compiles.
            return [], {"DOCKER_BUILDKIT": "0"}
        # An attestation would make an index of each image.
        return ["--load", "--progress", "plain", "--platform", platform], {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}

    def save(self, name: str, file: str) -> None:
        self.run("save", "--output", file, name)

    def push(self, index: str, images: t.Sequence[str], auth: dict[str, t.Any] | None, insecure: bool) -> None:
        flags = ["--insecure"] if insecure else []
        with self._config(auth) as folder:
            env = {"DOCKER_CONFIG": folder}
            for image in images:
                self.run("push", image, env=env)
            self.run("manifest", "create", *flags, index, *images, env=env)
            self.run("manifest", "push", *flags, index, env=env)

    @contextlib.contextmanager
    def _config(self, auth: dict[str, t.Any] | None) -> t.Iterator[str]:
        """A configuration as the user's own, with this credential and no helper: what `docker login` leaves stays as it is."""
        own = pathlib.Path(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))
        try:
            config = json.loads((own / "config.json").read_text())
        except (OSError, ValueError):
            config = {}
        kept = {key: value for key, value in config.items() if key not in ("auths", "credHelpers", "credsStore")}
        with tempfile.TemporaryDirectory() as folder:
            for name in ("contexts", "cli-plugins", "tls"):
                if (own / name).exists():
                    os.symlink((own / name).resolve(), os.path.join(folder, name))
            _write_secret(os.path.join(folder, "config.json"), {**kept, **(auth or {})})
            yield folder


class Podman(Engine):
    name = "podman"
    version = ("info", "--format", "{{.Host.OS}}/{{.Host.Arch}}")

    def build_flags(self, platform: str) -> tuple[list[str], dict[str, str]]:
        return ["--layers", "--http-proxy=false", "--pull=missing", "--platform", platform], {}

    def save(self, name: str, file: str) -> None:
        self.run("save", "--format", "docker-archive", "--output", file, name)

    def push(self, index: str, images: t.Sequence[str], auth: dict[str, t.Any] | None, insecure: bool) -> None:
        # The index under its final name would be there with half of its platforms. A run that is killed leaves this one.
        own = f"localhost/registry-cache-index:{index.rpartition(':')[2]}-{self.scope}"
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "auth.json")
            _write_secret(file, auth or {"auths": {}})
            if self.ask("manifest", "inspect", own) is not None:
                self.run("manifest", "rm", own)
            self.run("manifest", "create", own)
            try:
                for image in images:
                    self.run("manifest", "add", own, f"containers-storage:{image}")
                flags = ["--authfile", file, f"--tls-verify={'false' if insecure else 'true'}"]
                self.run("manifest", "push", "--all", *flags, own, f"docker://{index}")
            finally:
                self.run("manifest", "rm", own)


def _write_secret(path: str, content: t.Any) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file)


def find(choice: str, log: Log) -> Engine:
    """The engine that answers, docker first.

    :param choice: C(auto), C(docker) or C(podman).
    :raises EngineError: none answers; the text says why of each.
    """
    said = []
    for kind in (Docker, Podman):
        if choice not in ("auto", kind.name):
            continue
        program = shutil.which(kind.name)
        if not program:
            said.append(f"{kind.name} is not installed")
            continue
        try:
            result = subprocess.run(
                [program, *kind.version], capture_output=True, text=True, check=False, timeout=_ASK_SECONDS
            )
        except subprocess.TimeoutExpired:
            said.append(f"{kind.name} gives no answer in {_ASK_SECONDS} s")
            continue
        if result.returncode == 0 and result.stdout.startswith("linux/"):
            return kind(program, result.stdout.strip(), log)
        said.append(f"{kind.name}: {(result.stderr or result.stdout).strip()[:300]}")
    raise EngineError("; ".join(said))


class EngineChoice:
    """The engine of a module's option, asked for only once somebody needs it."""

    def __init__(self, choice: str, log: Log) -> None:
        self._choice, self.log = choice, log
        self._found: Engine | None = None

    @property
    def name(self) -> str:
        """Its name, empty if nobody has needed it."""
        return self._found.name if self._found else ""

    def get(self) -> Engine:
        """:raises ImageError: if none answers."""
        if self._found is None:
            try:
                self._found = find(self._choice, self.log)
            except EngineError as error:
                raise ImageError(
                    f"engine: no engine answers for {self._choice} ({error}). Start docker or podman on the host that runs this module,"
                    " or use an image that was built elsewhere. Example: engine: podman"
                ) from error
        return self._found
