"""FastWorker: the client, the control plane that hands over, and whoever runs the task.

Names cited in this folder are those of FastWorker 0.3.0; comments say which of them 0.1.1 lacks.
"""

from otel_queue_bridge.adapter import Adapter, BuiltIn, Hook
from otel_queue_bridge.adapters.fastworker import (
    carrier,
    dispatch,
    execute,
    result,
    submit,
    traffic,
    worker,
)

_CLIENT = "fastworker.clients.client"
_CONTROL_PLANE = "fastworker.workers.control_plane"
_SUBWORKER = "fastworker.workers.subworker"
_WORKER = "fastworker.workers.worker"
_PATTERNS = "fastworker.patterns.nng_patterns"


adapter = Adapter(
    system="fastworker",
    instruments=("fastworker >= 0.1.1, < 0.4",),
    span_names={"dispatch": "fastworker.control_plane.dispatch"},
    switch="FASTWORKER_OTEL_ENABLED",
    built_in=BuiltIn(
        "FASTWORKER_TELEMETRY_ENABLED",
        ("true", "1", "yes"),
        # These modules call the functions, and have imported them by name.
        tuple(
            f"{module}:{function}"
            for module in (_CLIENT, _WORKER)
            for function in ("trace_operation", "record_task_metric")
        ),
    ),
    hooks=(
        Hook("fastworker.tasks.models:Task.__init__", submit.create),
        Hook("fastworker.tasks.models:Task.model_dump", carrier.write, within=traffic.current),
        Hook("fastworker.tasks.models:TaskResult.__init__", result.create),
        Hook(f"{_CLIENT}:Client.submit_task", submit.submit),
        Hook(f"{_CLIENT}:Client.delay", submit.submit),
        Hook(f"{_CLIENT}:Client.delay_with_callback", submit.submit),
        Hook(f"{_CLIENT}:Client.submit_batch", submit.submit_batch, optional=True),
        Hook(f"{_CLIENT}:Client._submit_task_internal", submit.send),
        Hook(f"{_PATTERNS}:ReqRepPattern.start", traffic.start, within=traffic.current),
        Hook(f"{_PATTERNS}:ReqRepPattern.send", traffic.send, within=traffic.current),
        Hook(f"{_PATTERNS}:ReqRepPattern.recv", traffic.receive, within=traffic.current),
        Hook(f"{_PATTERNS}:ReqRepPattern.close", traffic.close, within=traffic.current),
        Hook(f"{_WORKER}:Worker._execute_task", execute.execute),
        Hook(f"{_WORKER}:Worker._send_callback", execute.call_back),
        Hook(f"{_CONTROL_PLANE}:ControlPlaneWorker._send_task_to_subworker", dispatch.send),
        Hook(f"{_CONTROL_PLANE}:ControlPlaneWorker._handle_cancel", dispatch.cancel, optional=True),
        Hook(
            f"{_CONTROL_PLANE}:ControlPlaneWorker._execute_periodic", submit.repeat, optional=True
        ),
        Hook(f"{_CONTROL_PLANE}:ControlPlaneWorker.start", worker.start),
        Hook(f"{_CONTROL_PLANE}:ControlPlaneWorker.stop", worker.stop),
        Hook(f"{_SUBWORKER}:SubWorker.stop", worker.stop),
    ),
)
