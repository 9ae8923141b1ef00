"""Read ARQ's pools: where the server is."""

from __future__ import annotations

from typing import Any

TRANSPORT = "redis"


def server(pool: Any) -> tuple[str, int | None] | None:
    options = pool.connection_pool.connection_kwargs
    return (options["host"], options.get("port")) if "host" in options else None
