"""Makes the subworkers of FastWorker 0.3.0 start: for tests only.

`SubWorker.start` sets `self.running`, which is a property without a setter (`Worker.running`), and
never enters the state in which `Worker._process_tasks` works. 0.1.1 needs none of this.
"""

from fastworker.workers.subworker import SubWorker
from fastworker.workers.worker import Worker

if isinstance(getattr(Worker, "running", None), property):
    Worker.running = Worker.running.setter(lambda worker, value: None)
    _start = SubWorker.start

    async def start(self):
        await self.lifecycle.start()
        await self.lifecycle.ready()
        return await _start(self)

    SubWorker.start = start
