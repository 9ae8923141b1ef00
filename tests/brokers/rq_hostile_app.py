"""A user's functions on RQ that note who unpickles their data, and the user's own serializers."""

import gzip
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

from opentelemetry import trace
from rq import get_current_job

folder = Path(os.environ.get("APP_FOLDER", "."))


def note(*words: object) -> None:
    with (folder / "notes").open("a") as file:
        file.write(json.dumps([*words, os.getpid()]) + "\n")


class Watched:
    """Notes in which process it is unpickled."""

    def __setstate__(self, state: Any) -> None:
        note("unpickled", os.getppid())

    def __getstate__(self) -> dict[str, str]:
        return {"some": "state"}


class Zipped:
    """A serializer whose output only it can read."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return gzip.compress(pickle.dumps(value))

    @staticmethod
    def loads(data: bytes) -> Any:
        note("unzipped", os.getppid())
        return pickle.loads(gzip.decompress(data))  # noqa: S301 - that is what RQ does


def ok(*args: object, **kwargs: object) -> None:
    note("ok")


def fails(*args: object, **kwargs: object) -> None:
    raise ValueError


def tells() -> None:
    job = get_current_job()
    traced = trace.get_current_span().get_span_context().is_valid
    note("seen", job.meta, repr(job.args), repr(job.kwargs), job.description, traced)


def main() -> None:
    from redis import Redis
    from rq import Queue, Retry

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        for queue, serializer, name, retry in json.loads(line):
            with Redis.from_url(os.environ["APP_BROKER"]) as client:
                Queue(queue, connection=client, serializer=serializer).enqueue(
                    f"tests.brokers.rq_hostile_app.{name}", retry=Retry(max=1) if retry else None
                )
        print(json.dumps("done"), flush=True)
