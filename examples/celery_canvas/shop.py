"""A Celery app; nothing in it is about tracing."""

import os

from celery import Celery

URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
app = Celery("shop", broker=URL, backend=URL)  # a chord's callback needs the backend


@app.task
def pick(order):
    return f"{order}, picked"


@app.task
def pack(order):
    return f"{order}, packed"


@app.task
def ship(order):
    return f"{order}, shipped"


@app.task
def price(item):
    return {"tea": 4, "milk": 2}[item]


@app.task
def total(prices):
    return sum(prices)
