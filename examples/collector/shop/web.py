"""The web app, and the path that a load balancer asks every few seconds."""

import itertools

from fastapi import FastAPI

from shop.tasks import charge

app = FastAPI()
orders = itertools.count(1)


@app.post("/orders")
def order():
    number = next(orders)
    charge.delay(number)
    return {"order": number}


@app.get("/health")
def health():
    return "well"
