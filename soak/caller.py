"""Submits what it reads: `python -m soak.caller APP`. It ends with its input.

A line of the input is JSON: how to submit (plain, forks, hostile), the tasks by name and key, and
the carriers of hostile ones. The answer is a line, too.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import sys
from itertools import cycle
from typing import Any

from soak.truth import Truth


def main(app: str) -> None:
    module: Any = importlib.import_module(app)
    truth = Truth.of_this_process()

    def submit(name: str, key: str) -> None:
        truth.submitted(key, name, module.submit(name, key))

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        how, tasks, junk = json.loads(line)
        carriers = cycle(junk or [None])
        for name, key in tasks:
            if how == "forks":
                child = multiprocessing.get_context("fork").Process(target=submit, args=(name, key))
                child.start()
                child.join()
            elif how == "hostile":
                found = module.submit_hostile(name, key, next(carriers))
                truth.submitted(key, name, found, counted=False)
            else:
                submit(name, key)
        print(json.dumps(len(tasks)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
