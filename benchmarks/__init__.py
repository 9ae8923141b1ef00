"""What telemetry costs per task; `make bench`.

Each variant runs in a process of its own, in turn with all others. The floor is what nobody can
go below: the bare SDK calls that our spans and metrics need, written around plain Celery.
"""
