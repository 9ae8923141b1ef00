from __future__ import annotations

from typing import Any

from celery import Celery

from soak import tasks

app = Celery("soak", broker=tasks.BROKER)
app.conf.update(
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    worker_enable_remote_control=False,  # two workers of one name would share its queue
    worker_prefetch_multiplier=1,
)
AGAIN = {"autoretry_for": (tasks.BoomError,), "max_retries": 1, "default_retry_delay": 0}


def submit(name: str, key: str, **options: Any) -> str:
    return str(app.tasks[name].apply_async((key,), **options).id)


def submit_hostile(name: str, key: str, junk: Any) -> str:
    named = junk if isinstance(junk, dict) else {"traceparent": junk, "baggage": junk}
    return submit(name, key, headers={**named, "otel": junk, "otel-submitted": junk})


for function in tasks.functions(submit):
    again = AGAIN if function.__name__ in tasks.RETRIED else {}
    app.task(function, name=function.__name__, throws=(tasks.ExpectedError,), **again)
