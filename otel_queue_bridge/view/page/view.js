// The page: which view is shown, and what stands above it.

import { ask, tell } from "./api.js";
import { clock, count, el, many } from "./draw.js";
import { queues } from "./queues.js";
import { trace } from "./trace.js";
import { traces } from "./traces.js";

const main = document.getElementById("main");
const line = document.getElementById("status");
const notices = document.getElementById("notices");
let leave = () => {};

function route() {
  leave();
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  const parameters = new URLSearchParams(query);
  const [, view = "", id = ""] = path.split("/");
  document.querySelectorAll("nav a").forEach((link) => {
    const current = (link.hash === "#/queues") === (view === "queues");
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  document.title = "otel-queue-bridge";
  main.replaceChildren();
  scrollTo(0, 0);
  if (view === "queues") leave = queues(main);
  else if (view === "trace") leave = trace(main, id, parameters);
  else leave = traces(main, parameters);
}

function say({ detail: status }) {
  line.classList.remove("offline");
  const held = [count(status.spans, "span"), count(status.traces, "trace")];
  line.replaceChildren(el("b", {}, status.file ?? "live"), ` ${held.join(" · ")}`);
  const said = [...dropped(status), ...refused(status)];
  const same = said.map((one) => one.textContent).join("") === notices.textContent;
  if (!same) notices.replaceChildren(...said); // they are read aloud
}

function dropped({ dropped: { services }, limit }) {
  const parts = Object.entries(services).map(([name, number]) => `${many(number)} of ${name || "a service without a name"}`);
  if (!parts.length) return [];
  return [el("li", {}, `Older traces were dropped, since at most ${many(limit)} are held: ${parts.join(", ")}.`)];
}

function refused({ rejected: { count: number, last } }) {
  if (!last) return [];
  return [el("li", { class: "error" }, `${count(number, "request")} refused, the last at ${clock(last.time_ms)}: ${last.where}: ${last.reason}`)];
}

function lost() {
  line.classList.add("offline");
  line.replaceChildren(el("b", {}, "not connected"), " The server does not answer; trying again.");
}

document.addEventListener("status", say);
document.addEventListener("lost", lost);
window.addEventListener("hashchange", route);
route();
ask("/api/status").then(tell, lost);
