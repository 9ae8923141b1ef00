"""RQ: a job from its dequeueing to the end of a simple worker's work, which forks nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.client import Pipeline
from rq import Queue, SimpleWorker
from rq.utils import now

from benchmarks.paths import Facts

if TYPE_CHECKING:
    from collections.abc import Callable

_SERVER = {"server.address": "localhost", "server.port": 6379, "rq.transport": "redis"}


class _Server:
    """Stands in for Redis: keeps the job that was saved last, and delivers it again and again."""

    def __init__(self) -> None:
        self.job: dict[bytes, Any] = {}
        self.delivers = False
        """Whether it is a worker that saves by now: it would make the next run a rerun."""
        self._key = ""

    def reply(self, command: str, *arguments: Any) -> Any:
        saved = command == "HSET" and arguments[0].startswith("rq:job:")
        if saved and "created_at" in arguments and not self.delivers:
            self._key, *fields = arguments
            self.job = {
                name.encode(): value.encode() if isinstance(value, str) else value
                for name, value in zip(fields[::2], fields[1::2], strict=True)
            }
        elif command == "INFO":
            return {"redis_version": "7.2.0"}
        elif command == "CLIENT INFO":
            return {"addr": "127.0.0.1:1"}
        elif command == "LMOVE":
            return self._key.removeprefix("rq:job:").encode()
        elif command == "HGETALL":
            return dict(self.job)
        elif command == "SMEMBERS":
            return set()
        return 1


class _Pipeline(Pipeline):
    server: _Server

    def immediate_execute_command(self, *command: Any, **_: Any) -> Any:
        self.watching = True
        return self.server.reply(*command)

    def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 - Redis'
        del raise_on_error
        replies = [self.server.reply(*command) for command, _ in self.command_stack]
        self.reset()
        return replies

    def reset(self) -> None:
        self.watching = False
        super().reset()


class _Client(Redis):
    def __init__(self, server: _Server, **options: Any) -> None:
        super().__init__(**options)
        self._server = server

    def execute_command(self, *command: Any, **_: Any) -> Any:
        return self._server.reply(*command)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> _Pipeline:  # noqa: FBT001, FBT002 - Redis'
        made = _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made.server = self._server
        return made


class Paths:
    facts = Facts(
        task=f"{__name__}.add",
        destination="default",
        submitted=_SERVER,
        worked={**_SERVER, "task.worker": "bench"},
    )

    def __init__(self) -> None:
        self._server = _Server()
        self._queue = Queue(connection=_Client(self._server, host="localhost"))

    def submit(self) -> None:
        self._queue.enqueue(add, 2, 3)

    def worker(self) -> Callable[[], None]:
        worker = SimpleWorker([self._queue], name="bench", connection=self._queue.connection)
        worker.log.setLevel("ERROR")
        worker.last_cleaned_at = now()  # it would clean up before its first job
        self._server.delivers = True

        def work() -> None:
            worker.execute_job(*worker.dequeue_job_and_maintain_ttl(None))

        return work


def add(x: int, y: int) -> int:
    return x + y
