# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds, pushes and saves images with the docker or podman command.

Private to this collection.
"""

from __future__ import annotations

# run_command neither shows output while a command runs nor has a timeout.
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
    """The file to which the output of commands is written as it arrives."""

    def __init__(self, path: str | None) -> None:
        self._path = path

    def write(self, text: str) -> None:
        if self._path:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(text)


def architecture(platform: str) -> str:
    return platform.split("/")[1]


class Engine:
    """Common parts of docker and podman.

    :param platform: platform of the engine, such as C(linux/amd64).
    """

    name: str
    # Identifies the runs that wait for each other in C(lock). Other runs use other names for temporary objects.
    scope = ""

    def __init__(self, program: str, platform: str, log: Log) -> None:
        self.program = program
        self.platform = platform
        self.log = log

    @contextlib.contextmanager
    def lock(self) -> t.Iterator[None]:
        """Wait for other runs of this user, then lock the engine. Builds share the name of their base image, which has one platform at a
        time, and archives share the name of the image. Raise EngineError."""
        folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "pullthrough.registry_cache")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # The kernel releases the lock when the process ends. The file is never deleted, because then two runs could both get a lock.
            lock = open(folder / f"{self.name}.lock", "a", encoding="utf-8")  # noqa: SIM115  # pylint: disable=consider-using-with
        except OSError as error:
            raise EngineError(
                f"The lock directory {folder} cannot be written ({error.strerror}). Choose another one in the environment of the playbook."
                " Example: XDG_CACHE_HOME=/var/cache/ansible"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.log.write(f"Another run uses {self.name} on this host. Waiting until it ends.\n")
                fcntl.flock(lock, fcntl.LOCK_EX)
            status = os.fstat(lock.fileno())
            own = f"{os.uname().nodename} {status.st_dev} {status.st_ino}"
            self.scope = hashlib.sha256(own.encode()).hexdigest()[:8]
            yield

    # Arguments of the command that prints the platform of the engine.
    version: tuple[str, ...]

    def ask(self, *words: str) -> str | None:
        """Return the output of a short command, or None if it fails."""
        result = subprocess.run(
            [self.program, *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        return result.stdout.strip() if result.returncode == 0 else None

    def run(self, *words: str, env: t.Mapping[str, str] | None = None) -> str:
        """Run a command, and log its output as it arrives; return its last lines.

        :raises EngineError: if the command fails, with those lines.
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
            raise EngineError(f"'{self.name} {words[0]}' failed with exit code {process.returncode}", output)
        return output

    def platform_of(self, image: str) -> str | None:
        """Return the platform of an image in the engine, or None."""
        return self.ask("image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", image)

    def digest_of(self, image: str) -> str | None:
        """Return the digest with which the engine pulled an image, or None."""
        found = json.loads(self.ask("image", "inspect", "--format", "{{json .RepoDigests}}", image) or "null")
        return found[0].rpartition("@")[2] if found else None

    def tag(self, image: str, name: str) -> None:
        self.run("tag", image, name)

    def pull(self, image: str, platform: str) -> None:
        """Pull an image for a platform. If this fails, an existing copy in the engine is used.

        :raises EngineError: if there is no copy for that platform.
        """
        try:
            self.run("pull", "--platform", platform, image)
        except EngineError:
            if self.platform_of(image) != platform:
                raise
            self.log.write(f"{image} cannot be pulled. Using the copy in {self.name}.\n")

    def build(
        self,
        context: str,
        name: str,
        platform: str,
        args: t.Mapping[str, str],
        labels: t.Mapping[str, str],
        network: str | None,
    ) -> None:
        """Build an image for a platform. Arguments are in the environment, so they do not appear in a process list. Raise EngineError.

        Labels are on the command line, because podman's cache keeps the labels of an older build if only an argument has changed.
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
        """Raise EngineError for an image that was built for another platform, and remove the image."""
        if (built := self.platform_of(name)) != platform:
            # A run of another user, for which `lock` does not wait, has pulled the base image for another platform in the meantime.
            self.run("rmi", name)
            raise EngineError(f"the base image was replaced during the build, so {name} is for {built} instead of {platform}. Run again")

    def build_flags(self, platform: str) -> tuple[list[str], dict[str, str]]:
        raise NotImplementedError

    def copy_out(self, image: str, target: str) -> None:
        """Copy an image's files to a directory, without running the image. Raise EngineError."""
        container = self.run("create", image, "none").splitlines()[-1]
        try:
            self.run("cp", f"{container}:/.", target)
        finally:
            self.run("rm", container)

    def save(self, name: str, file: str) -> None:
        raise NotImplementedError

    def push(self, index: str, images: t.Sequence[str], auth: dict[str, t.Any] | None, insecure: bool) -> None:
        """Push the images, then the index that names them, so that the index never names a missing image. Raise EngineError."""
        raise NotImplementedError


class Docker(Engine):
    name = "docker"
    version = ("version", "--format", "{{.Server.Os}}/{{.Server.Arch}}")

    def build_flags(self, platform: str) -> tuple[list[str], dict[str, str]]:
        if self.ask("buildx", "version") is None:
            # The older builder would apply `--platform` to each stage, including the one that compiles.
            return [], {"DOCKER_BUILDKIT": "0"}
        # An attestation would turn each image into an index.
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
        """Yield a copy of the user's docker configuration with only this credential. The user's own file is not changed."""
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
        # Under its final name, the index would exist with only some of its platforms. If the run is killed, this one stays.
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
    """Return the first engine that answers, docker before podman.

    :param choice: C(auto), C(docker) or C(podman).
    :raises EngineError: if none answers, with the reason for each of them.
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
            said.append(f"{kind.name} does not answer within {_ASK_SECONDS} s")
            continue
        if result.returncode == 0 and result.stdout.startswith("linux/"):
            return kind(program, result.stdout.strip(), log)
        said.append(f"{kind.name}: {(result.stderr or result.stdout).strip()[:300]}")
    raise EngineError("; ".join(said))


class EngineChoice:
    """The engine for an option of the module. It is searched for when it is first needed."""

    def __init__(self, choice: str, log: Log) -> None:
        self._choice, self.log = choice, log
        self._found: Engine | None = None

    @property
    def name(self) -> str:
        """The name of the engine, or an empty string if it was not needed."""
        return self._found.name if self._found else ""

    def get(self) -> Engine:
        """Return the engine. Raise ImageError if none answers."""
        if self._found is None:
            try:
                self._found = find(self._choice, self.log)
            except EngineError as error:
                raise ImageError(
                    f"engine: no engine answers for {self._choice} ({error}). Start docker or podman on the host that runs this module,"
                    " or use an image that was built elsewhere. Example: engine: podman"
                ) from error
        return self._found
