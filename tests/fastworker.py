"""Control planes and subworkers of FastWorker for tests, each on free ports."""

import random
import socket
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec

import pytest
from typing_extensions import Self

if not find_spec("fastworker"):
    pytest.skip("FastWorker needs Python 3.12", allow_module_level=True)

import pynng

_SPAN = 40
"""The number of ports that one control plane and its subworkers take."""

_claims: list[socket.socket] = []
"""Sockets on the last port of each range. They stay open as long as this process lives, because a
control plane that is killed and started again must find the other ports free."""


def _free_ports() -> int:
    """Return the first of as many ports in a row as a control plane and three subworkers need."""
    while True:
        # These are below the ports that the system hands out.
        first = random.randrange(20_000, 32_000, _SPAN)  # noqa: S311 - no secret
        with ExitStack() as taken:
            try:
                for port in range(first, first + _SPAN):
                    probe = taken.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", first + _SPAN - 1))
        except OSError:  # somebody else took it meanwhile
            continue
        _claims.append(claim)
        return first


class ControlPlane:
    """The commands of a control plane and its subworkers, whose ports are at fixed distances."""

    ready = "ready to receive tasks"

    def __init__(self, *modules: str) -> None:
        self._modules = modules
        self._port = _free_ports()
        self.address = self._at(0)
        self.discovery = self._at(6)
        self._subworkers = 0

    def _at(self, distance: int) -> str:
        return f"tcp://127.0.0.1:{self._port + distance}"

    def command(self) -> list[str]:
        quiet = [] if version("fastworker") < "0.3" else ["--no-gui"]
        return [
            *("fastworker", "control-plane", *quiet),
            *("--base-address", self.address, "--discovery-address", self.discovery),
            *("--subworker-port", str(self._port + 5)),  # where subworkers look for it
            *("--task-modules", *self._modules),
        ]

    def subworker(self, name: str) -> tuple[list[str], str]:
        """Return another subworker's command, and what it says when it is ready."""
        self._subworkers += 1
        command = [
            *("fastworker", "subworker", "--worker-id", name),
            *("--control-plane-address", self.address, "--discovery-address", self.discovery),
            *("--base-address", self._at(10 * self._subworkers)),
            *("--task-modules", *self._modules),
        ]
        return command, f"Subworker {name} started and registered"


class Mute:
    """A control plane that accepts all messages, at any priority, and never answers."""

    def __init__(self) -> None:
        port = _free_ports()
        self.address = f"tcp://127.0.0.1:{port}"
        self._addresses = [f"tcp://127.0.0.1:{port + priority}" for priority in range(4)]
        self._sockets = ExitStack()

    def __enter__(self) -> Self:
        for address in self._addresses:
            self._sockets.enter_context(pynng.Rep0(listen=address))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._sockets.close()
