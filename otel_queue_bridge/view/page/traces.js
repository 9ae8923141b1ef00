// The list of traces: live, newest first, filtered.

import { ask, listen } from "./api.js";
import { clock, copyable, count, duration, el } from "./draw.js";

const MOST = 200;
const STATUSES = ["error", "pending", "success", "failure", "retry", "cancelled", "rejected", "ignored"];
const CHOICES = { system: "systems", queue: "queues", task: "tasks", service: "services" };

export function traces(main, parameters) {
  const rows = new Map();
  const list = el("ol", { class: "traces", "aria-label": "Traces" });
  const help = el("section", { class: "help" });
  const form = filters(parameters, apply);
  const pause = el("button", { type: "button", "aria-pressed": "false", onclick: toggle }, "Pause");
  let paused = false;
  let held = new Map();
  let drawing = false;
  let status = null;
  let close = () => {};
  let left = false;

  main.append(el("div", { class: "bar-above" }, form, pause), list, help);

  function apply() {
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    location.hash = `#/${query.size ? `?${query}` : ""}`;
  }

  function toggle() {
    paused = !paused;
    if (!paused) {
      held.forEach((row, id) => rows.set(id, row));
      held = new Map();
    }
    pause.setAttribute("aria-pressed", String(paused));
    label();
    draw();
  }

  function label() {
    pause.textContent = paused ? (held.size ? `Resume · ${held.size} new` : "Resume") : "Pause";
  }

  function changed(row) {
    (paused ? held : rows).set(row.trace_id, row);
    label();
    if (!paused) draw();
  }

  function draw() {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => {
      drawing = false;
      const newest = [...rows.values()].sort((a, b) => b.start_ms - a.start_ms);
      for (const row of newest.splice(MOST)) rows.delete(row.trace_id);
      const known = new Map([...list.children].map((item) => [item.dataset.key, item]));
      list.replaceChildren(...newest.map((row) => known.get(key(row)) ?? item(row)));
      list.hidden = !newest.length;
      explain();
    });
  }

  function explain() {
    help.hidden = rows.size > 0;
    if (help.hidden || !status) return;
    help.replaceChildren(...(parameters.size || status.file ? nothingMatches() : howToSend(status)));
  }

  function heard(event) {
    status = event.detail;
    suggest(form, status, parameters);
    explain();
  }

  document.addEventListener("status", heard);
  ask("/api/status").then((found) => left || heard({ detail: found }));
  ask(`/api/traces?${parameters}`).then((found) => {
    if (left) return;
    found.traces.forEach((row) => rows.set(row.trace_id, row));
    draw();
    close = listen(`${parameters}&after=${found.sequence}`, changed);
  }).catch((error) => help.replaceChildren(el("p", { class: "error" }, error.message)));

  return () => {
    left = true;
    close();
    document.removeEventListener("status", heard);
  };
}

const key = (row) => `${row.trace_id} ${row.sequence}`;

function item(row) {
  const marks = [];
  const mark = (text, kind = "") => marks.push(el("span", { class: `mark ${kind}` }, text));
  if (row.errors) mark(row.error === "ERROR" ? count(row.errors, "error") : row.error, "error");
  if (row.pending) mark(`${row.pending} not taken yet`, "pending");
  if (row.retries) mark(count(row.retries, "retry", "retries"), "retry");
  if (row.wait_ms) mark(`waited ${duration(row.wait_ms)}`);
  if (row.links) mark(count(row.links, "link"));
  if (row.orphan) mark("a parent is missing");
  const about = [row.services.join(", "), row.tasks ? count(row.tasks, "task") : "", count(row.spans, "span"), row.systems.join(", ")];
  return el("li", { "data-key": key(row), class: row.errors ? "failed" : "" },
    el("a", { href: `#/trace/${row.trace_id}` },
      el("time", {}, clock(row.start_ms)),
      el("span", { class: "name" }, row.name || "without a name"),
      el("span", { class: "marks" }, marks),
      el("span", { class: "about" }, about.filter(Boolean).join(" · ")),
      el("span", { class: "time" }, duration(row.duration_ms))));
}

function filters(parameters, apply) {
  const field = (name, control) => el("label", {}, name, control);
  const choice = (name) => el("select", { name }, el("option", { value: "" }, "any"));
  const text = (name, type = "search") => el("input", { name, type, min: 0, size: 10, value: parameters.get(name) ?? "" });
  const form = el("form", { class: "filters", onchange: apply, onsubmit: submit, role: "search" },
    ...Object.keys(CHOICES).map((name) => field(name, choice(name))),
    field("status", choice("status")),
    field("at least ms", text("min_ms", "number")),
    field("text", text("text")),
    field("task or trace id", text("id")));
  function submit(event) {
    event.preventDefault();
    apply();
  }
  fill(form.elements.status, STATUSES, parameters.get("status"));
  return form;
}

function suggest(form, status, parameters) {
  for (const [name, found] of Object.entries(CHOICES)) fill(form.elements[name], status[found], parameters.get(name));
}

function fill(select, values, chosen) {
  const wanted = chosen && !values.includes(chosen) ? [chosen, ...values] : values;
  const shown = [...select.options].slice(1).map((option) => option.value);
  if (shown.join("\n") !== wanted.join("\n")) {
    const current = select.options.length > 1 ? select.value : (chosen ?? "");
    select.replaceChildren(el("option", { value: "" }, "any"), ...wanted.map((value) => el("option", { value }, value || "(none)")));
    select.value = current;
  }
}

function nothingMatches() {
  return [el("h1", {}, "Nothing matches"), el("p", {}, el("a", { href: "#/" }, "Show all traces"))];
}

function howToSend(status) {
  const common = `export OTEL_EXPORTER_OTLP_ENDPOINT=${status.http} OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf`;
  const refused = status.rejected.last;
  return [
    el("h1", {}, "Waiting for the first trace"),
    el("p", {}, "Start your web app and your worker like this, each in its own terminal, and send a request. Rows appear here by themselves."),
    el("h2", {}, "Web app"),
    copyable(`${common}\nexport OTEL_SERVICE_NAME=shop-web\nopentelemetry-instrument uvicorn shop:app`),
    el("h2", {}, "Worker"),
    copyable(`${common}\nexport OTEL_SERVICE_NAME=shop-worker\nopentelemetry-instrument celery -A shop worker`),
    el("p", {}, status.grpc ? `OTLP over gRPC is received at ${status.grpc}.` : (status.grpc_problem ?? "")),
    refused
      ? el("p", { class: "error" }, `The last request, at ${clock(refused.time_ms)}, was refused: ${refused.where}: ${refused.reason}`)
      : el("p", {}, "No request has been refused so far. Nothing comes? ", el("code", {}, "otel-queue-bridge doctor"), " finds out why."),
  ];
}
