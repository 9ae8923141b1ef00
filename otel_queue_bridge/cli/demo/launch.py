"""Run a command while standard input is open; when either ends, kill all its processes.

    python launch.py COMMAND ARGUMENT...

The demo holds the other end of standard input. However the demo dies, even by SIGKILL, the kernel
closes that end, and this script kills the rest of its process group, such as Celery's pool. It
must be started in a new session. The demo runs it as a file, not as a module, which is faster.
"""

import os
import signal
import subprocess
import sys
import threading


def end_with_input() -> None:
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)  # noqa: S603 - our caller's
    threading.Thread(target=end_with_input, daemon=True).start()
    status = command.wait()
    sys.stdout.write(f"ended with status {status}\n")
    sys.stdout.flush()
    os.killpg(0, signal.SIGKILL)
