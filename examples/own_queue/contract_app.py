"""The contract's tasks on own_queue."""

import own_queue

from otel_queue_bridge.testing import tasks


class LoggingQueue(own_queue.Queue):
    """What an app makes of it: an override that calls its parent's is still one submit."""

    def push(self, job):
        own_queue.logger.info("push %s", job["task"])
        super().push(job)


queue = LoggingQueue("contract", tasks.BROKER)


def submit(task, *args, cancelled=False, **kwargs):
    return queue.send(task, *args, expires=-1 if cancelled else None, **kwargs)


for function in tasks.functions(current=lambda: queue.current, submit=submit):
    queue.task(function, retries=int(function.__name__ in tasks.RETRIED))
