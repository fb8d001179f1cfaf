# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m google_emulator --config FILE`: runs until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import pathlib
import sys

import uvicorn

from . import connect_proxy, tls
from .app import create_app
from .config import Config
from .store import Store


async def _run(config: Config) -> None:
    config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    certificate, key = tls.ensure(config.state_dir, config.address)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(config, Store(config.state_dir / "resources.json")),
            host=config.address,
            port=config.port,
            http="h11",
            ws="none",
            ssl_certfile=certificate,
            ssl_keyfile=str(key),
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=5,
        )
    )
    async with await connect_proxy.serve(config.address, config.proxy_port, config.port):
        print(f"https://{config.address}:{config.port}, proxy on port {config.proxy_port}", file=sys.stderr, flush=True)
        await server.serve()


def main() -> None:
    parser = argparse.ArgumentParser(prog="google_emulator", description="An emulator of Google.")
    parser.add_argument("--config", type=pathlib.Path, required=True, help="JSON file, see README.md")
    asyncio.run(_run(Config.load(parser.parse_args().config)))


if __name__ == "__main__":
    main()
