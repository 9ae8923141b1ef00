"""A Celery app that packs and ships orders; its broker is a folder, so it needs no server."""

import os

from celery import Celery

FOLDER = os.environ["BROKER_FOLDER"]

app = Celery("shop", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": FOLDER,
    "data_folder_out": FOLDER,
    "control_folder": f"{FOLDER}/control",
    "polling_interval": 0.1,
}
app.conf.task_ignore_result = True


@app.task
def pack(order):
    if order < 1:
        raise ValueError(f"there is no order {order}")
    ship.delay(order)


@app.task
def ship(order):
    print(f"shipping order {order}")
