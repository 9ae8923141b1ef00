// What is known about the spans of a row, once it is opened.

import { clock, colour, duration, el } from "./draw.js";

export const SIDE_BY_SIDE = 3;

export function describe(row, shown) {
  return row.spans.map((span) => card(span, row, shown));
}

function card(span, row, shown) {
  const open = row.spans.length <= SIDE_BY_SIDE || span.failed || span === row.spans.at(-1) || shown.opened.has(span.id) || span.id === shown.wanted;
  const { logs } = shown.context;
  return el("details", { open, class: span.failed ? "card failed" : "card" },
    el("summary", {},
      el("span", { class: "service", "--colour": colour(span.service) }, el("b", {}, span.name)),
      el("small", {}, [span.service, span.kind, duration(span.end - span.start)].filter(Boolean).join(" · "))),
    span.events.map((event) => happened(event, span)),
    logs.filter((log) => log.span_id === span.id).map((log) => logged(log, span)),
    links(span, shown.context),
    list(facts(span, shown)),
    el("details", { class: "more" }, el("summary", {}, "Resource and ids"), list(origin(span, shown))));
}

const list = (pairs) => el("dl", {}, pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", { class: name === "error.type" ? "error" : "" }, value)]));
const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
const sorted = (values) => Object.keys(values).sort().map((name) => [name, text(values[name])]);

function facts(span, { begin }) {
  return [
    ...(span.message ? [["status", span.message]] : []),
    ...sorted(span.attributes),
    ["began", `${clock(span.start)}, ${duration(span.start - begin)} after the trace did`],
  ];
}

function origin(span, { spans }) {
  const lost = span.parent && !spans.some((one) => one.id === span.parent);
  return [
    ["span", span.id],
    ["parent", span.parent ? `${span.parent}${lost ? ", which never arrived" : ""}` : "none"],
    ...(span.scope ? [["scope", span.scope]] : []),
    ...sorted(span.resource),
  ];
}

function links(span, { linked_to: to, linked_from: from }) {
  const out = span.links.map((link) => el("p", { class: "link" }, "links to ",
    to[link.trace] ? el("a", { href: `#/trace/${link.trace}?span=${link.span}` }, to[link.trace].name || link.trace) : `trace ${link.trace}, which is not held here`,
    el("small", {}, Object.entries(link.attributes).map(([name, value]) => ` ${name}=${text(value)}`))));
  const back = from.filter((link) => link.to_span_id === span.id).map((link) => el("p", { class: "link" }, "linked from ",
    el("a", { href: `#/trace/${link.trace_id}?span=${link.span_id}` }, link.name), el("small", {}, ` ${clock(link.start_ms)}`)));
  return [...out, ...back];
}

function happened(event, span) {
  const { "exception.stacktrace": stack, "exception.type": type, "exception.message": message, ...rest } = event.attributes;
  const said = [type, message].filter(Boolean).join(": ") || event.name;
  return el("div", { class: type ? "event error" : "event" },
    el("p", {}, `${said} `, el("small", {}, `after ${duration(event.time - span.start)}`)),
    stack ? el("pre", { tabindex: 0 }, stack) : "",
    Object.keys(rest).length ? el("p", { class: "note" }, sorted(rest).map(([name, value]) => `${name}=${value}`).join(" · ")) : "");
}

function logged(log, span) {
  const level = String(log.severity);
  const loud = /^(error|fatal|critical|warn)/i.test(level);
  return el("p", { class: "log" }, el("small", {}, `${log.time_ms < span.start ? "before" : duration(log.time_ms - span.start)} `), el("b", { class: loud ? "error" : "" }, level), " ", log.body);
}
