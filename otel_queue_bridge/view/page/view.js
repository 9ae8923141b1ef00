// The page: which view is shown, and what stands above it.

import { ask, tell } from "./api.js";
import { clock, count } from "./draw.js";
import { queues } from "./queues.js";
import { trace } from "./trace.js";
import { traces } from "./traces.js";

const main = document.getElementById("main");
let leave = () => {};

function route() {
  leave();
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  const parameters = new URLSearchParams(query);
  main.replaceChildren();
  document.querySelectorAll("nav a").forEach((link) => {
    const current = link.hash === "#/queues" ? path === "/queues" : path !== "/queues";
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  if (path === "/queues") leave = queues(main);
  else if (path.startsWith("/trace/")) leave = trace(main, path.slice("/trace/".length), parameters);
  else leave = traces(main, parameters);
}

function say({ detail: status }) {
  const said = [count(status.spans, "span"), `${count(status.traces, "trace")} held`];
  for (const [service, number] of Object.entries(status.dropped.services)) {
    said.push(`${count(number, "older trace")} of ${service || "a service without a name"} dropped`);
  }
  if (status.file) said.unshift(`from ${status.file}`);
  const line = document.getElementById("status");
  line.replaceChildren(said.join(" · "));
  const refused = status.rejected.last;
  if (refused) {
    const note = document.createElement("strong");
    note.textContent = `${count(status.rejected.count, "request")} refused, the last at ${clock(refused.time_ms)}: ${refused.where}: ${refused.reason}`;
    line.append(" · ", note);
  }
}

document.addEventListener("status", say);
window.addEventListener("hashchange", route);
route();
ask("/api/status").then(tell);
