# SPDX-License-Identifier: GPL-3.0-or-later
"""An emulator of Galaxy on loopback that has the collections of the sandbox's environment."""

from __future__ import annotations

import hashlib
import json
import re

from tests.http_server import HttpServer, QuietHandler
from tools import artifact


def serve() -> HttpServer:
    """Returns a server of what `ansible-galaxy collection install` requests: versions, and archives."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/api/":
                return self._send({"available_versions": {"v3": "v3/"}})
            if not (match := re.fullmatch(r"/(?:api/v3/collections|archives)/(\w+)/(\w+)/(versions/(?:[\d.]+/)?|\S+\.tar\.gz)?", path)):
                return self.send_error(404)
            namespace, name, wanted = match.groups()
            archive = artifact.dependency(f"{namespace}.{name}")
            version, content = archive.name.removesuffix(".tar.gz").rpartition("-")[2], archive.read_bytes()
            if path.startswith("/archives/"):
                return self._send(content)
            described = {
                "namespace": {"name": namespace},
                "collection": {"name": name},
                "version": version,
                "href": f"/api/v3/collections/{namespace}/{name}/versions/{version}/",
                "download_url": f"http://{self.headers['Host']}/archives/{namespace}/{name}/{archive.name}",
                "artifact": {"filename": archive.name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)},
                "metadata": {"dependencies": {}},
                "signatures": [],
            }
            if wanted == "versions/":
                return self._send({"meta": {"count": 1}, "links": {"next": None}, "data": [described]})
            return self._send(described if wanted else {"highest_version": described})

        def _send(self, body: object) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream" if isinstance(body, bytes) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return HttpServer(Handler)
