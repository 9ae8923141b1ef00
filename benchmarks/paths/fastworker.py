"""FastWorker: a client's submit with its request, and a control plane that runs the task itself."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from fastworker import task
from fastworker.clients.client import Client
from fastworker.patterns import nng_patterns
from fastworker.tasks.models import TaskPriority
from fastworker.workers.control_plane import ControlPlaneWorker

from benchmarks.paths import Facts

if TYPE_CHECKING:
    from collections.abc import Callable

_ADDRESS = "tcp://127.0.0.1:5555"
_SERVER = {"server.address": "127.0.0.1", "server.port": 5557, "fastworker.transport": "nng"}


class _Request:
    """Stands in for a client's socket: its peer accepts each task at once. Keeps the last one."""

    sent = b""

    def __init__(self, **_: Any) -> None:
        self._reply = b""

    async def asend(self, data: bytes) -> None:
        _Request.sent = data
        reply = {"task_id": json.loads(data)["id"], "status": "success", "result": 5}
        self._reply = json.dumps(reply).encode()

    async def arecv(self) -> bytes:
        return self._reply

    def close(self) -> None:
        pass


class _Respondent:
    """Stands in for a control plane's socket for one priority: each task is put in by hand."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue()
        self.replied = asyncio.Event()

    async def recv(self) -> bytes:
        return await self.received.get()

    async def send(self, _: bytes) -> None:
        self.replied.set()


@task
async def add(x: int, y: int) -> int:
    return x + y


class Paths:
    facts = Facts(
        task="add",
        destination="normal",
        submitted={**_SERVER, "task.priority": "normal"},
        worked={**_SERVER, "task.priority": "normal", "task.worker": "bench"},
        dispatched={"fastworker.dispatch.local": True, "fastworker.dispatch.target": "bench"},
        exchange={
            "server.address": "127.0.0.1",
            "server.port": 5557,
            "fastworker.nng.attempt": 1,
        },
        replied={"fastworker.nng.request.size": 500, "fastworker.nng.reply.size": 60},
    )

    def __init__(self) -> None:
        nng_patterns.pynng.Req0 = _Request
        self.loop = asyncio.new_event_loop()
        self.client = Client()
        self.client.workers.add(("bench", _ADDRESS))

    def submit(self) -> None:
        self.loop.run_until_complete(self._submit())

    async def _submit(self) -> None:
        await self.client.delay("add", 2, 3)
        await asyncio.sleep(0)  # now the client sends it
        self.client.task_results.clear()

    def worker(self) -> Callable[[], None]:
        run = self.loop.run_until_complete
        control_plane = ControlPlaneWorker("bench", _ADDRESS, result_cache_max_size=1)
        respondent = _Respondent()

        async def start() -> None:
            await control_plane.lifecycle.start()
            await control_plane.lifecycle.ready()
            tasks = control_plane._process_tasks(respondent, TaskPriority.NORMAL)  # noqa: SLF001
            self._receiving = asyncio.create_task(tasks)

        async def work_once() -> None:
            respondent.replied.clear()
            respondent.received.put_nowait(_Request.sent)
            await respondent.replied.wait()
            await asyncio.sleep(0)  # now it forgets the task
            control_plane._active_tasks.clear()  # noqa: SLF001 - it never does

        run(start())
        return lambda: run(work_once())
