# SPDX-License-Identifier: GPL-3.0-or-later
"""The front's VCL: it compiles, and every case of varnishtest in cases/ passes, on both versions of Varnish."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from sandbox import front, varnish

CASES = sorted((pathlib.Path(__file__).parent / "cases").glob("*.vtc"))
SECRET = "the-secret-of-the-peers"

# What a case may ask for in a line "# variant: NAME"; without one it gets "default".
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {"registry_cache_size": "64Mi"},
    "apart": {"registry_cache_share_blobs": False},
    "brief": {"registry_cache_auth_ttl": 2},
    "patient": {"registry_cache_tag_ttl": 3},
    "small": {"registry_cache_size": "2Mi"},
    "open": {"registry_cache_auth": "none"},
}
# Who is in the ring, in a line "# peers: NAME".
PEERS = {"alone": ["peer0"], "away": ["peer1", "peer2"], "two": ["peer0", "peer1"]}


def _peers(folder: pathlib.Path, names: list[str]) -> str:
    backends = [f'backend {name} {{ .path = "{folder}/{name}.sock"; .connect_timeout = 0.5s; }}' for name in names]
    members = [f"owners.add_backend({name});" for name in names]
    return "\n".join([*backends, "sub vcl_init { new owners = directors.shard();", *members, "owners.reconfigure(replicas=500); }", ""])


@pytest.fixture(scope="session")
def variants() -> Iterator[dict[str, pathlib.Path]]:
    """The VCL of every variant, each in a folder of its own."""
    # Not pytest's folder: a socket's path has at most 108 bytes.
    base = pathlib.Path(tempfile.mkdtemp(prefix="front-"))
    folders = {}
    for name, variables in VARIANTS.items():
        folders[name] = base / name
        folders[name].mkdir()
        front.render(folders[name], **variables)
        (folders[name] / "peer").write_text(SECRET)
    yield folders
    shutil.rmtree(base)


def _word(case: str, name: str, default: str) -> str:
    match = re.search(rf"(?m)^# {name}: (\w+)$", case)
    return match[1] if match else default


def _run(case: pathlib.Path, version: str, variants: dict[str, pathlib.Path]) -> subprocess.CompletedProcess[str]:
    text = case.read_text()
    source = variants[_word(text, "variant", "default")]
    with tempfile.TemporaryDirectory(prefix="vtc-") as name:
        folder = pathlib.Path(name)
        # The sockets' folder is in the text of the VCL: each run has one of its own.
        for file in source.iterdir():
            (folder / file.name).write_text(file.read_text().replace(str(source), str(folder)))
        vcl, probes = re.subn(r"(?m)^(probe alive|  \.probe =) .*\n", "", (folder / "front.vcl").read_text())
        assert probes == 2
        # A server of a case is asked what the case says, and no probe in between; a case sets who is healthy.
        # What shows metrics listens on fixed ports, which several runs would share.
        backend = r"(?m)^backend metrics_(\w+) \{ \.host = .*?; \.port = .*?;"
        vcl = re.sub(backend, rf'backend metrics_\1 {{ .path = "{folder}/\1-metrics.sock";', vcl)
        (folder / "front.vcl").write_text(vcl)
        (folder / "peers.vcl").write_text(_peers(folder, PEERS[_word(text, "peers", "alone")]))
        shutil.copy(case, folder)
        arguments = [*front.parameters(folder), "-s memory=malloc,8m -s store=malloc,64m -i peer0 -j none", f"-p vcl_path={folder}"]
        macros = {"run": str(folder), "vcl": f"{folder}/front.vcl", "secret": SECRET, "arguments": " ".join(arguments)}
        defines = [word for key, value in macros.items() for word in ("-D", f"{key}={value}")]
        argv = varnish.command(version, "varnishtest", "-t", "60", *defines, f"{folder}/{case.name}", share=[folder])
        return subprocess.run(argv, capture_output=True, text=True, check=False)


Runs = dict[tuple[str, str], Future[subprocess.CompletedProcess[str]]]


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, variants: dict[str, pathlib.Path]) -> Iterator[Runs]:
    """All chosen cases, a few at a time: they wait more than they compute."""
    chosen = [item.callspec.params for item in request.session.items if getattr(item, "originalname", "") == "test_case"]  # type: ignore[attr-defined]
    for version in {parameters["version"] for parameters in chosen}:
        varnish.root(version)
    with ThreadPoolExecutor(6) as executor:
        yield {
            (parameters["case"].stem, parameters["version"]): executor.submit(_run, parameters["case"], parameters["version"], variants)
            for parameters in chosen
        }


@pytest.mark.parametrize("version", varnish.VERSIONS)
@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_case(case: pathlib.Path, version: str, runs: Runs) -> None:
    result = runs[case.stem, version].result()
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


def _with_headers(count: int, credential: str, status: str) -> str:
    """A request with so many further header fields, on a connection of its own, and the status that it must get."""
    fields = " ".join(f'-hdr "X-{number}: 1"' for number in range(count))
    return f'''
client c1 {{
	txreq -url "/v2/p/r/i/manifests/1.0" -hdr "Authorization: Basic {credential}" {fields}
	rxresp
	expect resp.status ~ "^({status})$"
}} -run
'''


@pytest.mark.parametrize("version", varnish.VERSIONS)
def test_many_header_fields(version: str, variants: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    """Whatever state has no room any more, a wrong credential is refused, and the registry is asked by known users alone."""
    counts = range(20, 64)
    case = tmp_path / "many-headers.vtc"
    case.write_text(
        '''varnishtest "As many header fields as Varnish takes, and more"
server s1 -listen "${run}/registry.sock" -repeat 9 {
	rxreq
	expect req.http.X-19 == 1
	expect req.http.Authorization == <undef>
	txresp -hdr "Docker-Content-Digest: sha256:aa" -body "manifest"
} -start
server s2 -listen "${run}/credentials.sock" -repeat 99 {
	rxreq
	expect req.http.Authorization == "Basic d3Jvbmc="
	txresp -status 401
} -start
varnish v1 -arg "${arguments}" -vcl {vcl 4.1; include "${vcl}";} -start
'''
        + "".join(_with_headers(count, "d3Jvbmc=", "401|431" if count < 57 else "400") for count in counts)
        + '''
server s2 -break
server s2 -listen "${run}/credentials.sock" -repeat 99 {
	rxreq
	expect req.http.Authorization == "Basic Z29vZA=="
	txresp
} -start
'''
        + "".join(_with_headers(count, "Z29vZA==", "200" if count < 36 else "200|400|431") for count in counts)
        + "varnish v1 -expect client_req_400 > 0\n"
    )
    result = _run(case, version, variants)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


@pytest.mark.parametrize("version", varnish.VERSIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_compiles(variant: str, version: str, variants: dict[str, pathlib.Path]) -> None:
    folder = variants[variant]
    storage = ("-s", "memory=malloc,1m", "-s", "store=malloc,1m")
    argv = varnish.command(
        *(version, "varnishd", "-C", "-j", "none", "-n", "/tmp/work", *storage),
        *("-p", f"vcl_path={folder}", "-f", f"{folder}/front.vcl"),
        share=[folder],
    )
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


def test_there_are_cases() -> None:
    assert len(CASES) >= 10
