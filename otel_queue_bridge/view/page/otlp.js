// A trace, read from OTLP JSON: spans, and the tree of rows in which a task is one row.

const KINDS = ["", "internal", "server", "client", "producer", "consumer"];
const STEPS = new Set(["submit", "dispatch", "execute"]);

export function readSpans(document) {
  return document.resourceSpans.flatMap((group) => {
    const resource = readAttributes(group.resource?.attributes);
    return group.scopeSpans.flatMap((scope) => (scope.spans ?? []).map((span) => readSpan(span, resource, scope.scope)));
  });
}

function readSpan(span, resource, scope) {
  const attributes = readAttributes(span.attributes);
  const step = attributes["messaging.operation.name"];
  return {
    id: span.spanId,
    parent: span.parentSpanId ?? "",
    name: span.name,
    kind: KINDS[span.kind ?? 0] ?? "",
    start: toMs(span.startTimeUnixNano),
    end: toMs(span.endTimeUnixNano),
    failed: span.status?.code === 2,
    message: span.status?.message ?? "",
    attributes,
    events: (span.events ?? []).map((event) => ({ name: event.name, time: toMs(event.timeUnixNano), attributes: readAttributes(event.attributes) })),
    links: (span.links ?? []).map((link) => ({ trace: link.traceId, span: link.spanId, attributes: readAttributes(link.attributes) })),
    service: String(resource["service.name"] ?? ""),
    resource,
    scope: [scope?.name, scope?.version].filter(Boolean).join(" "),
    step: STEPS.has(step) ? step : "",
    task: STEPS.has(step) ? String(attributes["messaging.message.id"] ?? span.spanId) : "", // a batch has no id
  };
}

const toMs = (nanoseconds) => Number(BigInt(nanoseconds ?? 0) / 1000n) / 1000;

function readAttributes(pairs = []) {
  return Object.fromEntries(pairs.map(({ key, value }) => [key, readValue(value)]));
}

function readValue(value = {}) {
  if ("arrayValue" in value) return (value.arrayValue.values ?? []).map(readValue);
  if ("kvlistValue" in value) return readAttributes(value.kvlistValue.values);
  if ("intValue" in value) return Number(value.intValue);
  return Object.values(value)[0] ?? null;
}

const statusOf = (span) => span.attributes["task.status"] ?? span.attributes.status ?? "";
export const waitOf = (span) => (typeof span.attributes["task.wait"] === "number" ? span.attributes["task.wait"] * 1000 : 0);

// The rows of a trace as a tree: { key, spans, title, task, attempts, orphan, children }.
export function readRows(spans) {
  const byId = new Map(spans.map((span) => [span.id, span]));
  const rowOf = new Map();
  const rows = new Map();
  for (const span of [...spans].sort((a, b) => a.start - b.start)) {
    const key = span.task ? `task ${span.task}` : span.id;
    if (!rows.has(key)) rows.set(key, { key, spans: [], task: Boolean(span.task), children: [], orphan: false, depth: 0 });
    rows.get(key).spans.push(span);
    rowOf.set(span.id, rows.get(key));
  }
  const roots = [];
  for (const row of rows.values()) {
    row.title = titleOf(row);
    if (row.task) row.attempts = readAttempts(row.spans);
    const parent = parentOf(row, rowOf);
    row.parent = parent;
    row.orphan = !parent && row.spans[0].parent !== "" && !byId.has(row.spans[0].parent);
    (parent?.children ?? roots).push(row);
  }
  return roots;
}

function titleOf({ spans, task }) {
  const names = task ? spans.map((span) => span.attributes["task.name"]) : [];
  return String(names.find(Boolean) ?? spans[0].name) || "without a name";
}

// The row above: that of the first parent which is no span of the row itself, unless that leads in a circle.
function parentOf(row, rowOf) {
  for (const span of row.spans) {
    const above = rowOf.get(span.parent);
    if (above && above !== row && !isBelow(above, row)) return above;
  }
  return null;
}

function isBelow(row, other) {
  for (let at = row; at; at = at.parent) if (at === other) return true;
  return false;
}

// An attempt has a submit, a dispatch and an execute, as far as they have arrived.
function readAttempts(spans) {
  const attempts = [];
  const attemptOf = new Map();
  for (const span of spans) {
    let attempt = span.step === "submit" ? null : attemptOf.get(span.parent);
    if (!attempt || attempt[span.step]) {
      attempt = { submit: attempt?.submit && span.step !== "submit" ? attempt.submit : null };
      attempts.push(attempt);
    }
    attempt[span.step] = span;
    attemptOf.set(span.id, attempt);
  }
  attempts.forEach((attempt, index) => {
    const found = [attempt.execute, attempt.dispatch, attempt.submit].filter(Boolean);
    attempt.number = found.map((span) => span.attributes["task.attempt"]).find(Number.isInteger) ?? index + 1;
    attempt.status = found.map(statusOf).find(Boolean) ?? "";
    attempt.failed = found.find((span) => span.failed) ?? null;
  });
  return attempts;
}

export const errorOf = (span) => String(span.attributes["error.type"] ?? "error");

// What the exception said, or else the status.
export function messageOf(span) {
  const said = span.events.map((event) => event.attributes["exception.message"]).findLast(Boolean);
  return String(said ?? span.message);
}
