"""Run a command for as long as standard input stays open; when either ends, end all of it.

    python launch.py COMMAND ARGUMENT...

The demo holds the other end of standard input, and the kernel closes that however the demo dies,
SIGKILL included. What is left of the process group, Celery's pool among it, is then killed. Run
as a file of its own, in a session of its own, so that it starts in no time.
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
