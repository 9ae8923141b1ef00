"""What telemetry costs per task; `make bench`.

Each variant runs in its own process, and all take turns. The floor is the least possible cost: the
bare SDK calls that our spans and metrics need, written around plain Celery.
"""
