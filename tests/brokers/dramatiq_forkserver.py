"""The command `dramatiq` on a Python that starts processes by forkserver, as 3.14 does."""

import multiprocessing
import sys

from dramatiq.cli import main

if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    sys.exit(main())
