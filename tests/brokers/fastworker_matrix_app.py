"""Tasks of FastWorker for real processes, and their client: `python -m ... ADDRESS KWARGS`."""

import asyncio
import json
import os
import sys

import fastworker.telemetry.metrics
import fastworker.telemetry.tracer
from fastworker import task
from fastworker.clients.client import Client
from opentelemetry import metrics, trace

import otel_queue_bridge
import tests.fastworker_shim  # noqa: F401 - without it no subworker starts


@task
async def later(**kwargs):
    return [os.getpid(), kwargs]


@task
def at_once(**kwargs):
    return [os.getpid(), kwargs]


@task
def failing(**kwargs):
    raise ValueError(json.dumps([os.getpid(), kwargs]))


def show_theirs() -> None:
    """Let FastWorker's own telemetry record with the SDK of this process.

    The SDK that it would set up itself needs the gRPC exporter.
    """
    fastworker.telemetry.tracer._tracer = trace.get_tracer("theirs")  # noqa: SLF001 - looked up there
    meter = metrics.get_meter("theirs")
    theirs = vars(fastworker.telemetry.metrics)
    theirs["_meter"] = meter
    for event in ("submitted", "completed", "failed"):
        theirs[f"_task_{event}_counter"] = meter.create_counter(f"theirs.{event}")
    theirs["_task_duration_histogram"] = meter.create_histogram("theirs.duration")


async def submit(address: str, kwargs: dict) -> None:
    """Submit each task once, one after another: replies to two of a priority get crossed."""
    client = Client(timeout=50, retries=1)  # NNG sends again after 60 s
    client.workers.add(("control-plane", address))  # what discovery finds after two seconds
    for name in ("later", "failing"):
        show(name, await client.submit_task(name, kwargs=kwargs))
    task_id = await client.delay("at_once", **kwargs)
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})  # sent behind us
    show("at_once", client.task_results[task_id])


def show(name: str, result) -> None:
    told = [name, result.task_id, result.status.value, result.result, result.error]
    print(json.dumps(told), flush=True)


if os.environ.get("APP_THEIRS"):
    show_theirs()
if __name__ == "__main__":
    if "APP_QUEUES" in os.environ:
        otel_queue_bridge.instrument(*os.environ["APP_QUEUES"].split())
    asyncio.run(submit(sys.argv[1], json.loads(sys.argv[2])))
