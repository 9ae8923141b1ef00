"""A queue as many companies have one: Redis lists, a blocking pop, and a loop.

`python -m own_queue shop --processes 2` runs what is registered with `shop.queue`.
"""

import argparse
import importlib
import json
import logging
import math
import multiprocessing
import os
import signal
import time
import uuid

import redis

logger = logging.getLogger("own_queue")


class Queue:
    def __init__(self, name, url):
        self.name = name
        self.redis = redis.Redis.from_url(url)
        self.tasks = {}
        self.retries = {}
        self.current = None
        self.stopping = False

    def task(self, function, retries=0):
        self.tasks[function.__name__] = function
        self.retries[function.__name__] = retries
        return function

    def send(self, task, *args, delay=0, expires=None, **kwargs):
        job = {"id": uuid.uuid4().hex, "task": task, "args": args, "kwargs": kwargs, "attempt": 1}
        if expires is not None:
            job["expires"] = time.time() + expires
        if delay:
            job["due"] = time.time() + delay
        self.push(job)
        return job["id"]

    def push(self, job):
        if job.get("due", 0) > time.time():
            self.redis.zadd(f"{self.name}:later", {json.dumps(job): job["due"]})
        else:
            self.redis.rpush(self.name, json.dumps(job))

    def pop(self):
        for due in self.redis.zrangebyscore(f"{self.name}:later", 0, time.time()):
            if self.redis.zrem(f"{self.name}:later", due):  # and no other worker did
                self.redis.rpush(self.name, due)
        found = self.redis.blpop(self.name, timeout=1)
        return found and json.loads(found[1])

    def work(self):
        signal.signal(signal.SIGTERM, self.stop)
        print(f"own_queue: process {os.getpid()} takes jobs", flush=True)
        while not self.stopping:
            job = self.pop()
            if job is not None:
                self.handle(job)

    def stop(self, *_):
        self.stopping = True

    def handle(self, job):
        if time.time() > job.get("expires", math.inf):
            logger.warning("%s has expired", job["task"])
        else:
            self.run(job)

    def run(self, job):
        self.current = job["id"]
        try:
            self.tasks[job["task"]](*job["args"], **job["kwargs"])
        except Exception as error:  # noqa: BLE001 - the next job is run whatever this one did
            self.fail(job, error)

    def fail(self, job, error):
        if job["attempt"] <= self.retries[job["task"]]:
            self.push({**job, "attempt": job["attempt"] + 1})
        else:
            logger.error("%s failed", job["task"], exc_info=error)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("app")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    queue = importlib.import_module(arguments.app).queue
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=queue.work) for _ in range(arguments.processes)]
    # A worker that is told to stop ends what it runs.
    signal.signal(signal.SIGTERM, lambda *_: [worker.terminate() for worker in workers])
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
