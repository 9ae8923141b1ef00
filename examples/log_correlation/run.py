"""Start Valkey and a worker, submit one order, show the worker's log, and stop everything.

Arguments are passed on to the worker: `python run.py -P threads`.
"""

import re
import shlex
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from running import example

with example(__file__) as run:
    run.valkey()
    run.env |= {
        "OTEL_PYTHON_LOG_CORRELATION": "true",
        "OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION": "false",  # the lines are only printed
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,fastapi,redis",
    }
    worker = f"opentelemetry-instrument celery -A shop worker -l info {shlex.join(sys.argv[1:])}"
    log = run.start("worker", worker, ready=" ready.")
    run.finish("web", 'opentelemetry-instrument python -c "import shop; shop.pack.delay(7)"')
    log.wait_for(lambda: re.search(r"shop\.ship\b.* succeeded", log.log()))
    print(*re.findall(r"^(?:INFO|WARNING|ERROR) .*", log.log(), re.MULTILINE), sep="\n")
