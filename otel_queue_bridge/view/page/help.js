// What the empty page says: how to send the first trace here.

import { clock, copyable, el } from "./draw.js";

const WORKERS = {
  Celery: "celery -A shop worker",
  Dramatiq: "dramatiq shop",
  RQ: "rq worker",
  ARQ: "arq shop.WorkerSettings",
  FastWorker: "fastworker control-plane --task-modules shop",
  Huey: "huey_consumer shop.huey",
  "Django Tasks": "python manage.py db_worker --no-reload",
};

let queue = "Celery";

export function howToSend(status) {
  if (status.file) return [el("h1", {}, `${status.file} holds no traces`)];
  return [
    el("h1", {}, "Waiting for the first trace"),
    el("p", {}, "Start your web app and your worker like this, each in a separate terminal, and send a request. Traces appear here by themselves."),
    el("h2", {}, "Once"),
    copyable("pip install otel-queue-bridge opentelemetry-distro opentelemetry-exporter-otlp-proto-http \\\n    opentelemetry-instrumentation-fastapi  # or -django, -flask: that of your web framework"),
    el("h2", {}, "Web app"),
    copyable(commands(status, "shop-web", "uvicorn shop:app")),
    ...worker(status),
    el("h2", {}, "If nothing comes"),
    el("p", {}, el("code", {}, "opentelemetry-instrument otel-queue-bridge doctor"), " says why."),
    el("p", {}, refusal(status)),
    el("p", {}, status.grpc ? ["OTLP over gRPC works, too: ", el("code", {}, `OTEL_EXPORTER_OTLP_ENDPOINT=${status.grpc} OTEL_EXPORTER_OTLP_PROTOCOL=grpc`)] : (status.grpc_problem ?? "")),
  ];
}

function worker(status) {
  const block = el("div");
  const show = (name) => {
    queue = name;
    block.replaceChildren(copyable(commands(status, "shop-worker", WORKERS[name])));
  };
  const choice = (name) => el("label", {}, el("input", { type: "radio", name: "worker", value: name, checked: name === queue, onchange: () => show(name) }), name);
  show(queue);
  return [el("h2", {}, "Worker"), el("div", { class: "choice", role: "group", "aria-label": "Queue" }, Object.keys(WORKERS).map(choice)), block];
}

function commands(status, service, command) {
  return [
    `export OTEL_SERVICE_NAME=${service}`,
    `export OTEL_EXPORTER_OTLP_ENDPOINT=${status.http}`,
    "export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
    `opentelemetry-instrument ${command}`,
  ].join("\n");
}

function refusal({ rejected: { last } }) {
  if (!last) return "No request has been refused so far.";
  return el("span", { class: "error" }, `The last request that was refused, at ${clock(last.time_ms)}: ${last.where}: ${last.reason}`);
}
