"""An app that uses own_queue; nothing in it is about tracing. Run as a file, it takes one order."""

import os
import time

from own_queue import Queue

queue = Queue("shop", os.environ["REDIS_URL"])
attempts = []


def pack(order):
    time.sleep(0.05)
    queue.send("ship", order, delay=0.2)


def ship(order):
    attempts.append(order)
    if len(attempts) == 1:
        raise ConnectionError("the carrier's API is down")


queue.task(pack)
queue.task(ship, retries=1)

if __name__ == "__main__":
    queue.send("pack", 7)
