"""Start Django and a worker, place an order and one that is rolled back, and show both traces."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from running import example, free_port

with example(__file__) as run:
    run.valkey()
    run.env["DATABASE"] = str(run.temporary / "shop.sqlite3")
    run.env["DJANGO_SETTINGS_MODULE"] = "shop.settings"
    run.finish("migrate", "python manage.py migrate --run-syncdb")
    worker = run.start(
        "worker", "opentelemetry-instrument celery -A shop worker --concurrency 1 --loglevel INFO"
    )
    port = free_port()
    run.start(
        "web",
        f"opentelemetry-instrument python manage.py runserver --noreload {port}",
        ready="Quit the server",
    )
    worker.wait_for(" ready.")
    for item in ("tea", "gold"):
        run.request("GET", port, f"/order?item={item}")
    run.show(run.spans("GET order", "execute shop.tasks.pack", "GET order"))
