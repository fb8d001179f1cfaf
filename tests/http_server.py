# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTTP server on loopback in the test's process."""

from __future__ import annotations

import pathlib
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class QuietHandler(BaseHTTPRequestHandler):
    """Base class of handlers that log nothing."""

    def log_message(self, *_arguments: Any) -> None:
        pass


class HttpServer:
    """A server that uses a handler until it is closed.

    :param certificate: the files of certificate and key for HTTPS.
    """

    def __init__(self, handler: Any, certificate: tuple[pathlib.Path, pathlib.Path] | None = None) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.host = f"127.0.0.1:{self._http.server_port}"
        self.url = f"{'https' if certificate else 'http'}://{self.host}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
