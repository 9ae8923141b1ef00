"""Forked children in the programs of tests: `child` makes one, `reap` waits for its good end."""

import os
import traceback
from collections.abc import Callable


def child(work: Callable[[], object]) -> int:
    """Run this in a child, which ends there as a work-horse does; return its id."""
    pid = os.fork()
    if not pid:
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the child must never go on as a second test
            traceback.print_exc()
        finally:
            os._exit(1)
    return pid


def reap(*pids: int) -> None:
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
