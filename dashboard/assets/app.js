// Which page is shown, and the live figures for it: one connection, opened anew when it breaks.

import { graph } from "./graph.js";
import * as pages from "./pages.js";
import { timeline } from "./timeline.js";

const KEPT = 600;
const state = { overview: null, history: [], job: null };
let page = null;
let events = null;
let watched;

const root = () => document.getElementById("page");

function status(text, kind) {
  const link = document.getElementById("link");
  link.textContent = text;
  link.className = `link ${kind}`;
}

function notice(text) {
  const box = document.getElementById("notice");
  box.textContent = text;
  box.hidden = !text;
  clearTimeout(notice.timer);
  if (text) notice.timer = setTimeout(() => notice(""), 6000);
}

function update() {
  if (!document.hidden) page?.update(state);
}

function watch(job) {
  if (events && watched === job) return;
  events?.close();
  watched = job;
  state.job = null;
  events = new EventSource(job === null ? "/events" : `/events?job=${job}`);
  events.addEventListener("history", (event) => { state.history = JSON.parse(event.data); });
  events.addEventListener("overview", (event) => {
    state.overview = JSON.parse(event.data);
    state.history.push({ time_ms: state.overview.time_ms, workers: state.overview.workers.map((worker) => worker.held), charged_bytes: state.overview.workers.map((worker) => worker.charged_bytes) });
    if (state.history.length > KEPT) state.history.splice(0, state.history.length - KEPT);
    status(state.overview.closed ? "closed" : "live", state.overview.closed ? "off" : "on");
    update();
  });
  events.addEventListener("job", (event) => {
    state.job = JSON.parse(event.data);
    update();
  });
  events.onerror = () => {
    status("not connected", "off");
    // A refusal is final for a browser: the job may be forgotten, or too many watch.
    if (events.readyState === EventSource.CLOSED) setTimeout(() => { if (events?.readyState === EventSource.CLOSED) { events = null; route(); } }, 3000);
  };
}

function route() {
  const [name = "", id, tab = "graph"] = location.hash.replace(/^#\/?/, "").split("/");
  page?.leave?.();
  page = null;
  const main = root();
  if (name === "jobs" && /^\d+$/.test(id ?? "")) {
    watch(Number(id));
    page = pages.job(main, Number(id), tab);
  } else {
    watch(null);
    const make = { "": pages.overview, jobs: pages.jobs, memory: pages.memory, timeline }[name] ?? pages.overview;
    page = make(main);
  }
  for (const link of document.querySelectorAll("nav [data-page]")) {
    if (link.dataset.page === (name || "overview")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = name ? `${name}${id ? ` ${id}` : ""} · Aqueduct` : "Aqueduct";
  update();
}

async function cancel(id) {
  if (!confirm(`Cancel job ${id}?`)) return;
  const csrf = document.querySelector("meta[name=csrf]").content;
  const answer = await fetch(`/api/jobs/${id}/cancel`, { method: "POST", headers: { "x-aqueduct-csrf": csrf } });
  notice(answer.ok ? `Job ${id} is being cancelled.` : (await answer.json()).error);
}

// The graph as a file of its own, with the styles it needs.
function download(id) {
  const shape = page?.shape?.();
  if (!shape) return;
  const drawn = graph(shape, () => {});
  drawn.update(state.job ?? page.frame(), null);
  const probe = document.createElement("div");
  probe.className = "offscreen";
  probe.append(drawn.svg);
  document.body.append(probe);
  for (const node of probe.querySelectorAll("*")) {
    const style = getComputedStyle(node);
    for (const name of ["fill", "stroke", "stroke-width", "font-size", "font-weight", "font-family", "opacity", "stroke-dasharray", "display"]) {
      node.setAttribute(name, style.getPropertyValue(name));
    }
  }
  const text = new XMLSerializer().serializeToString(drawn.svg);
  probe.remove();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
  link.download = `job-${id}.svg`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("button");
  if (!target) return;
  const { dataset } = target;
  if ("cancel" in dataset) cancel(Number(dataset.cancel));
  else if ("filter" in dataset) { page?.filter?.(dataset.filter); update(); }
  else if ("zoom" in dataset) page?.zoom?.(dataset.zoom);
  else if ("span" in dataset) page?.zoom?.(Number(dataset.span));
  else if ("hold" in dataset) page?.hold?.();
  else if ("svg" in dataset) download(dataset.svg);
});
document.addEventListener("visibilitychange", update);
addEventListener("hashchange", route);
route();
