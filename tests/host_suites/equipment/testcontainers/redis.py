"""Stands in for the package of this name, which needs Docker: its container is our server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from typing_extensions import Self


class RedisContainer:
    port = 6379

    def __init__(self, _: str) -> None:
        self._address = urlsplit(os.environ["HOST_SUITE_REDIS"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get_container_host_ip(self) -> str:
        return str(self._address.hostname)

    def get_exposed_port(self, _: int) -> int:
        return self._address.port or self.port
