// The pages: each makes elements of what is known. What moves is told apart from what stands by `update`.

import { bytes, clock, count, duration, el, exact, percent, replace, sparkline, words } from "./format.js";
import { fitting, graph, scaleToFit } from "./graph.js";

export const KINDS = [
  ["mailboxes", "Mailboxes", "batches between two tasks"],
  ["state", "Operator state", "what operators keep"],
  ["tasks", "Tasks", "batches in hand and what a step takes"],
  ["io", "I/O", "buffers of sources and sinks"],
  ["spill_buffers", "Spill buffers", "frames on their way to disk"],
  ["other", "Other", "jobs about to start, results not yet read"],
];

// A column whose title begins with # holds numbers.
const column = (title) => el("th", { class: title.startsWith("#") ? "number" : false }, title.replace("#", ""));
const pill = (state) => el("span", { class: `pill ${state}` }, state);
const empty = (text) => el("p", { class: "empty" }, text);
const heading = (title, note) => el("div", { class: "heading" }, el("h2", {}, title), note ? el("span", { class: "note" }, note) : null);

function memoryBar(worker) {
  const label = `${bytes(sum(worker.held))} held, ${bytes(worker.charged_bytes)} of ${bytes(worker.limit_bytes)} charged`;
  const promised = Math.max(0, worker.charged_bytes - sum(worker.held));
  return el("div", { class: "bar", role: "img", "aria-label": label },
    KINDS.map(([kind, name]) => el("span", { class: `part ${kind}`, width_share: worker.held[kind] / worker.limit_bytes, title: `${name}: ${bytes(worker.held[kind])} held, ${bytes(worker.charged[kind])} charged` })),
    el("span", { class: "part promised", width_share: promised / worker.limit_bytes, title: `Promised to jobs: ${bytes(promised)}` }));
}

const legend = () => el("ul", { class: "legend" }, KINDS.map(([kind, name, what]) => el("li", { title: what }, el("i", { class: `part ${kind}` }), name)), el("li", { title: "set aside for jobs that were let in, and not held at the moment" }, el("i", { class: "part promised" }), "Promised"), el("li", {}, el("i", { class: "part free" }), "Free"));

function sum(kinds) {
  return KINDS.reduce((all, [kind]) => all + kinds[kind], 0);
}

function workerCard(worker, index, history) {
  const values = history.slice(-120).map((sample) => (sample.workers[index] ? sum(sample.workers[index]) : 0));
  return el("article", { class: "card worker", "data-key": `worker ${index}` },
    el("header", {}, el("h3", {}, `Worker ${index}`), el("span", { class: "figure" }, `${bytes(sum(worker.held))} of ${bytes(worker.limit_bytes)}`)),
    memoryBar(worker),
    el("div", { class: "row" },
      el("div", { class: "threads" }, (worker.threads.length ? worker.threads : [0]).map((share, thread) => el("div", { class: "thread" },
        el("span", { class: "label" }, `thread ${thread}`), el("span", { class: "meter" }, el("span", { width_share: share })), el("span", { class: "figure" }, percent(share))))),
      values.length > 1 ? el("figure", {}, sparkline(values, worker.limit_bytes, "memory over time"), el("figcaption", {}, `${bytes(worker.charged_bytes)} charged`)) : null),
    worker.overruns ? el("p", { class: "warning" }, `over its limit ${times(worker.overruns)}, because an estimate was too small`) : null);
}

const times = (count) => (count === 1 ? "once" : `${exact(count)} times`);

function progress(job) {
  if (!job.total_bytes) return el("span", { class: "quiet" }, `${bytes(job.bytes)} read`);
  const share = Math.min(1, job.bytes / job.total_bytes);
  const left = job.bytes_per_second > 0 ? duration((job.total_bytes - job.bytes) / job.bytes_per_second) : null;
  return el("span", { class: "progress" }, el("span", { class: "meter" }, el("span", { width_share: share })), el("span", { class: "figure" }, percent(share)), left && job.state === "running" ? el("span", { class: "quiet" }, `${left} left`) : null);
}

const disk = (job) => [job.spilled_bytes ? `${bytes(job.spilled_bytes)} spilled` : null, job.spooled_bytes ? `${bytes(job.spooled_bytes)} spooled` : null].filter(Boolean).join(", ");

function reason(job) {
  if (job.waits_for) return el("p", { class: "reason" }, el("b", {}, "Waits for memory: "), words(job.waits_for.sentence));
  if (job.bottleneck && job.state === "running") return el("p", { class: "reason" }, el("b", {}, "Bottleneck: "), words(job.bottleneck.sentence));
  return null;
}

function liveJob(job) {
  return el("article", { class: "card job", "data-key": `job ${job.id}` },
    el("header", {}, el("h3", {}, el("a", { href: `#/jobs/${job.id}` }, el("span", { class: "quiet" }, `${job.id}  `), job.title)), pill(job.state)),
    el("dl", { class: "facts" },
      fact("Time", duration(job.elapsed_seconds)), fact("Rows read", count(job.rows)), fact("Rows a second", count(job.rows_per_second)),
      job.bytes ? fact("Read", progress(job)) : null, disk(job) ? fact("Disk", disk(job)) : null),
    reason(job),
    el("footer", {}, el("a", { class: "button", href: `#/jobs/${job.id}` }, "Graph"), el("button", { class: "danger", "data-cancel": job.id }, "Cancel")));
}

const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
const tile = (name, value, note) => el("div", { class: "tile" }, el("span", { class: "label" }, name), el("strong", {}, value), el("span", { class: "note" }, note ?? ""));

function jobTable(jobs) {
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, ["#Job", "", "State", "Began", "#Took", "#Rows read", "Disk", "What happened"].map(column))),
    el("tbody", {}, jobs.map((job) => el("tr", { "data-key": `job ${job.id}` },
      el("td", { class: "number" }, job.id),
      el("td", {}, el("a", { href: `#/jobs/${job.id}` }, job.title)),
      el("td", {}, pill(job.state)),
      el("td", {}, clock(job.submitted_ms)),
      el("td", { class: "number" }, duration(job.elapsed_seconds)),
      el("td", { class: "number" }, count(job.rows)),
      el("td", {}, disk(job)),
      el("td", { class: job.error ? "what error" : "what" }, words(job.error ?? job.waits_for?.sentence ?? job.bottleneck?.sentence ?? "")))))));
}

export const isLive = (job) => job.state === "running" || job.state === "waiting";

export function overview(root) {
  return {
    update({ overview: now, history }) {
      if (!now) return;
      const live = now.jobs.filter(isLive);
      const ended = now.jobs.filter((job) => !isLive(job));
      const all = (key) => live.reduce((total, job) => total + job[key], 0);
      const [charged, limit] = ["charged_bytes", "limit_bytes"].map((key) => now.workers.reduce((total, worker) => total + worker[key], 0));
      replace(root, el("main", { id: "page", tabindex: -1 },
        el("section", { class: "tiles" },
          tile("Jobs", String(live.filter((job) => job.state === "running").length), `running, ${live.filter((job) => job.state === "waiting").length} waiting`),
          tile("Throughput", `${count(all("rows_per_second"))}/s`, all("bytes_per_second") ? `rows, ${bytes(all("bytes_per_second"))}/s` : "rows"),
          tile("Memory", bytes(now.workers.reduce((total, worker) => total + sum(worker.held), 0)), `held, ${bytes(charged)} of ${bytes(limit)} charged on ${now.workers.length} ${now.workers.length === 1 ? "worker" : "workers"}`),
          tile("Disk", bytes(now.totals.spilled_bytes + now.totals.spooled_bytes), "spilled and spooled so far"),
          tile("Ended", exact(now.totals.finished + now.totals.failed + now.totals.cancelled), `${now.totals.failed} failed, ${now.totals.cancelled} cancelled`)),
        heading("Workers"),
        el("section", { class: "cards" }, now.workers.map((worker, index) => workerCard(worker, index, history))),
        legend(),
        heading("Jobs"),
        el("section", { class: "jobs" }, live.length ? live.map(liveJob) : empty("No job runs. What your program starts is shown here at once.")),
        ended.length ? [heading("Ended"), jobTable(ended.slice(0, 10))] : null));
    },
  };
}

export function jobs(root) {
  let list = null;
  let filter = "";
  let loaded = -1;
  const load = async (now) => {
    const key = now ? now.totals.finished + now.totals.failed + now.totals.cancelled + 1e6 * now.jobs.filter(isLive).length : 0;
    if (key === loaded && list) return;
    loaded = key;
    const answer = await fetch("/api/jobs");
    if (answer.ok) list = await answer.json();
  };
  const page = {
    async update({ overview: now }) {
      await load(now);
      if (!list) return;
      const recent = new Map((now?.jobs ?? []).map((job) => [job.id, job]));
      const shown = list.map((job) => recent.get(job.id) ?? job).filter((job) => !filter || job.state === filter);
      replace(root, el("main", { id: "page", tabindex: -1 },
        heading("Jobs of this process", `${list.length} remembered`),
        el("div", { class: "filters", role: "group", "aria-label": "Which jobs" }, ["", "running", "waiting", "finished", "failed", "cancelled"].map((state) => el("button", { "data-filter": state, "aria-pressed": String(state === filter) }, state || "all"))),
        shown.length ? jobTable(shown) : empty("None.")));
    },
    filter(state) { filter = state; },
  };
  return page;
}

export function memory(root) {
  return {
    update({ overview: now, history }) {
      if (!now) return;
      replace(root, el("main", { id: "page", tabindex: -1 },
        heading("Memory", "held over time; the line above is what is charged, which counts what was promised too"), legend(),
        now.workers.map((worker, index) => el("section", { class: "card wide", "data-key": `worker ${index}` },
          el("header", {}, el("h3", {}, `Worker ${index}`), el("span", { class: "figure" }, `${bytes(sum(worker.held))} held, ${bytes(worker.charged_bytes)} of ${bytes(worker.limit_bytes)} charged, at most ${bytes(worker.peak_bytes)}`)),
          memoryBar(worker), area(history, index, worker.limit_bytes),
          worker.holders.length ? el("div", { class: "scroll" }, el("table", {},
            el("thead", {}, el("tr", {}, ["Who", "For", "#Job", "#Held", "#Charged", "#Most"].map(column))),
            el("tbody", {}, worker.holders.map((holder) => el("tr", {},
              el("td", {}, el("i", { class: `part ${holder.kind}` }), " ", holder.name),
              el("td", {}, KINDS.find(([kind]) => kind === holder.kind)?.[1] ?? holder.kind),
              el("td", { class: "number" }, el("a", { href: `#/jobs/${holder.job}` }, holder.job)),
              el("td", { class: "number" }, bytes(holder.held_bytes)),
              el("td", { class: "number" }, bytes(holder.charged_bytes)),
              el("td", { class: "number" }, bytes(holder.peak_bytes))))))) : empty("Nobody holds any."))),
        heading("Short of memory", pressure(now.workers)), memoryEvents(now.workers)));
    },
  };
}

// What was done about a lack of memory so far, in words.
function pressure(workers) {
  const all = (key) => workers.reduce((total, worker) => total + worker.counts[key], 0);
  const asked = all("reclaims");
  const overruns = workers.reduce((total, worker) => total + worker.overruns, 0);
  const over = overruns ? `; a worker went over its limit ${times(overruns)}` : "";
  if (!asked && !all("spills")) return `nobody was asked for any so far${over}`;
  return `holders were asked ${exact(asked)} times, ${exact(all("vain_reclaims"))} of them in vain, and gave ${bytes(all("reclaimed_bytes"))} back; ${bytes(all("spilled_bytes"))} went to disk in ${exact(all("spills"))} pieces${over}`;
}

// The newest of all workers first.
function memoryEvents(workers) {
  const events = workers.flatMap((worker, index) => worker.events.map((event) => [index, event]));
  events.sort(([, a], [, b]) => b.time_ms - a.time_ms);
  return eventTable(events.slice(0, 40));
}

function done({ kind, bytes }) {
  if (kind === "spill") return "wrote to disk";
  if (kind === "overrun") return "went over the limit";
  return bytes ? "gave memory back" : "had none to give";
}

// Who was asked for memory and what came of it, who wrote to disk, and who went over the limit.
export function eventTable(events) {
  if (!events.length) return empty("Nobody was asked to give memory back, nothing was written to disk, and nobody went over the limit.");
  return el("div", { class: "scroll" }, el("table", { class: "events" },
    el("thead", {}, el("tr", {}, ["Time", "What", "Who", "#Job", "#Worker", "#Asked for", "#Freed, written or over", "#Times"].map(column))),
    el("tbody", {}, events.map(([worker, event]) => el("tr", {},
      el("td", {}, clock(event.time_ms)),
      el("td", {}, el("i", { class: `event ${event.kind}` }), done(event)),
      el("td", {}, event.holder),
      el("td", { class: "number" }, event.job ?? ""),
      el("td", { class: "number" }, worker),
      el("td", { class: "number" }, event.asked_bytes ? bytes(event.asked_bytes) : ""),
      el("td", { class: "number" }, bytes(event.bytes)),
      el("td", { class: "number" }, exact(event.count)))))));
}

// Kinds of holders over time, on top of each other, against the limit.
function area(history, worker, limit) {
  const samples = history.filter((sample) => sample.workers[worker]);
  const [width, height] = [900, 130];
  if (samples.length < 2) return empty("A picture over time is drawn while this page is open.");
  const [first, last] = [samples[0].time_ms, samples[samples.length - 1].time_ms];
  // Where all of it is far below the limit, the picture is of the part that there is.
  const most = Math.max(1, ...samples.map((sample) => Math.max(sum(sample.workers[worker]), sample.charged_bytes[worker])));
  const top = most > limit / 3 ? limit : 2 ** Math.ceil(Math.log2(most * 1.2));
  const x = (sample) => (((sample.time_ms - first) / Math.max(1, last - first)) * width).toFixed(1);
  const y = (value) => (height - (Math.min(value, top) / top) * (height - 6)).toFixed(1);
  const base = samples.map(() => 0);
  const parts = KINDS.map(([kind]) => {
    const lower = samples.map((sample, index) => `${x(sample)},${y(base[index])}`);
    samples.forEach((sample, index) => { base[index] += sample.workers[worker][kind]; });
    const upper = samples.map((sample, index) => `${x(sample)},${y(base[index])}`);
    return el("path", { class: `part ${kind}`, d: `M${upper.join(" L")} L${lower.reverse().join(" L")} Z` });
  });
  return el("figure", { class: "area" },
    el("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `Memory of worker ${worker} over time` },
      el("line", { class: top === limit ? "limit" : "top", x1: 0, x2: width, y1: 6, y2: 6 }), parts,
      el("polyline", { class: "charged", points: samples.map((sample) => `${x(sample)},${y(sample.charged_bytes[worker])}`).join(" ") })),
    el("figcaption", {}, el("span", {}, clock(first)), el("span", {}, top === limit ? `limit ${bytes(limit)}` : `up to ${bytes(top)}; the limit of ${bytes(limit)} is far above`), el("span", {}, clock(last))));
}

const TABS = [["graph", "Graph"], ["analysis", "Explain analyze"], ["plan", "Plan"]];

// A job: its graph as it moves, what its operators did, and its plan.
export function job(root, id, tab) {
  const head = el("div", { class: "jobhead" });
  const body = el("div", { class: "jobbody" });
  const below = el("div", { class: "below" });
  replace(root, el("main", { id: "page", tabindex: -1 }));
  root.replaceChildren(head, body, below);
  let detail = null;
  let drawn = null;
  let selected = null;
  let partitions = null;
  let texts = null;
  let asked = 0;
  let last = null;
  let resized = null;
  let drawnFor = 0;
  let scale = 1;
  let zoomed = null;

  async function text(path) {
    const answer = await fetch(`/api/jobs/${id}/${path}`);
    return answer.ok ? answer.text() : `${answer.status}`;
  }

  async function load() {
    const answer = await fetch(`/api/jobs/${id}`);
    if (!answer.ok) {
      body.replaceChildren(empty((await answer.json()).error));
      return;
    }
    detail = await answer.json();
    last ??= detail.frame;
    show(detail.frame);
    if (tab === "graph") {
      const canvas = el("div", { class: "canvas" });
      body.replaceChildren(zooming(), canvas, hints());
      draw(canvas, detail.frame);
      // Turned, or made narrower: it is laid out anew if it would not fit.
      resized = new ResizeObserver(() => { if (Math.abs(canvas.clientWidth - drawnFor) > 1) draw(canvas, last); });
      resized.observe(canvas);
    }
    refresh();
  }

  function draw(canvas, frame) {
    drawnFor = canvas.clientWidth;
    const plan = fitting(detail.shape, drawnFor - 2);
    drawn = graph(detail.shape, (node) => { selected = selected === node ? null : node; partitions = null; unfold(); }, plan);
    scale = zoomed ?? scaleToFit(plan, drawnFor - 2);
    drawn.scale(scale);
    canvas.replaceChildren(drawn.svg);
    drawn.update(frame, selected);
    const guilty = frame.summary.bottleneck?.node;
    if (guilty === undefined) return;
    const at = drawn.place(guilty);
    canvas.scrollLeft = (at.x + 94) * scale - canvas.clientWidth / 2;
    canvas.scrollTop = (at.y + 55) * scale - canvas.clientHeight / 2;
  }

  const zooming = () => el("p", { class: "zoom", role: "group", "aria-label": "Size of the graph" },
    [["out", "−", "Smaller"], ["fit", "Fit", "As wide as the page"], ["in", "+", "Larger"]].map(([name, sign, title]) => el("button", { "data-zoom": name, title, "aria-label": title }, sign)));

  function zoom(way) {
    const canvas = body.querySelector(".canvas");
    if (!drawn || !canvas) return;
    zoomed = way === "fit" ? null : Math.max(0.1, Math.min(3, scale * (way === "in" ? 1.25 : 0.8)));
    const middle = [(canvas.scrollLeft + canvas.clientWidth / 2) / scale, (canvas.scrollTop + canvas.clientHeight / 2) / scale];
    draw(canvas, last);
    canvas.scrollLeft = middle[0] * scale - canvas.clientWidth / 2;
    canvas.scrollTop = middle[1] * scale - canvas.clientHeight / 2;
  }

  const hints = () => el("p", { class: "hint" }, "Width of a line: bytes a second. Colour: how full its fullest queue is. The bars at the foot of a node are its partitions: darker is busier. Choose a node to unfold them.");

  function show(frame) {
    const { summary } = frame;
    replace(head, el("div", { class: "jobhead" },
      el("div", { class: "title" }, el("h1", {}, el("span", { class: "quiet" }, `Job ${id}  `), summary.title), pill(summary.state),
        el("a", { class: "button", href: `/api/jobs/${id}/report`, download: `job-${id}.html` }, "Report"),
        isLive(summary) ? el("button", { class: "danger", "data-cancel": id }, "Cancel") : null),
      el("dl", { class: "facts" }, fact(summary.state === "waiting" ? "In line" : "Time", duration(summary.elapsed_seconds)), fact("Rows read", exact(summary.rows)),
        isLive(summary) ? fact("Rows a second", count(summary.rows_per_second)) : null, summary.bytes ? fact("Read", progress(summary)) : null,
        disk(summary) ? fact("Disk", disk(summary)) : null, fact("Began", clock(summary.submitted_ms))),
      summary.error ? el("p", { class: `callout ${summary.state}` }, el("b", {}, summary.state === "cancelled" ? "Cancelled. " : "It ended with an error. "), words(summary.error)) : null,
      summary.waits_for ? el("p", { class: "callout" }, el("b", {}, "Waits for memory. "), words(summary.waits_for.sentence)) : null,
      summary.bottleneck ? el("p", { class: "callout bottleneck", id: "bottleneck", "data-node": summary.bottleneck.name }, el("b", {}, "Bottleneck. "), words(summary.bottleneck.sentence)) : null,
      frame.deadlocks.map((cycle) => el("p", { class: "callout" }, el("b", {}, "A cycle of waits was resolved. "), cycle)),
      el("nav", { class: "tabs", "aria-label": "Views of the job" }, TABS.map(([name, title]) => el("a", { href: `#/jobs/${id}/${name}`, "aria-current": name === tab ? "page" : false }, title)))));
  }

  async function refresh() {
    asked = Date.now();
    if (tab === "analysis") {
      texts = await text("analysis.txt");
      replace(body, el("div", { class: "jobbody" }, el("p", { class: "downloads" }, el("a", { class: "button", href: `/api/jobs/${id}/analysis`, download: `job-${id}.json` }, "JSON"), el("a", { class: "button", href: `/api/jobs/${id}/analysis.txt`, download: `job-${id}.txt` }, "Text")), el("pre", { class: "text" }, texts)));
    } else if (tab === "plan" && !texts) {
      texts = await Promise.all(["plan.dot", "plan.mmd"].map(text));
      replace(body, el("div", { class: "jobbody" },
        el("p", { class: "downloads" }, el("a", { class: "button", href: `/api/jobs/${id}/plan.txt`, download: `job-${id}.txt` }, "Text"), el("a", { class: "button", href: `/api/jobs/${id}/plan.dot`, download: `job-${id}.dot` }, "DOT"), el("a", { class: "button", href: `/api/jobs/${id}/plan.mmd`, download: `job-${id}.mmd` }, "Mermaid"), el("button", { "data-svg": id }, "SVG")),
        detail.shape.origins.map((origin) => [heading(origin.title[0].toUpperCase() + origin.title.slice(1)), el("pre", { class: "text" }, origin.text)]),
        detail.shape.origins.length ? heading("Actor graph") : null, el("pre", { class: "text" }, detail.explain),
        el("details", {}, el("summary", {}, "DOT, for Graphviz"), el("pre", { class: "text" }, texts[0])),
        el("details", {}, el("summary", {}, "Mermaid"), el("pre", { class: "text" }, texts[1]))));
    } else if (tab === "graph") {
      await unfold();
    }
  }

  async function unfold() {
    if (selected === null) {
      below.replaceChildren();
      return;
    }
    const node = selected;
    const answer = await fetch(`/api/jobs/${id}/nodes/${node}`);
    if (!answer.ok || node !== selected) return;
    partitions = await answer.json();
    const { name, detail: what, kind } = detail.shape.nodes[node];
    const most = Math.max(1e-9, ...partitions.map((one) => one.busy_seconds));
    replace(below, el("div", { class: "below" }, heading(`Partitions of ${name}`, what ? `${kind}: ${what}` : kind),
      partitions.length ? el("div", { class: "scroll" }, el("table", {},
        el("thead", {}, el("tr", {}, ["#Partition", "On", "Does", "#Rows in", "#Rows out", "Busy", "#State", "#Spilled"].map(column))),
        el("tbody", {}, partitions.map((one) => el("tr", {},
          el("td", { class: "number" }, one.partition),
          el("td", {}, `worker ${one.worker}, thread ${one.thread}`),
          el("td", {}, el("span", { class: `does ${one.state}` }, one.state.replaceAll("_", " ")), one.blocked_on ? ` (${one.blocked_on})` : ""),
          el("td", { class: "number" }, exact(one.rows_in)), el("td", { class: "number" }, exact(one.rows_out)),
          el("td", {}, el("span", { class: "meter" }, el("span", { width_share: one.busy_seconds / most })), " ", duration(one.busy_seconds)),
          el("td", { class: "number" }, one.state_bytes ? bytes(one.state_bytes) : ""),
          el("td", { class: "number" }, one.spilled_bytes ? bytes(one.spilled_bytes) : "")))))) : empty("The caller reads it.")));
  }

  load();
  return {
    update({ job: frame }) {
      if (!detail || !frame || frame.summary.id !== id) return;
      last = frame;
      show(frame);
      drawn?.update(frame, selected);
      if (Date.now() - asked > 950 && (selected !== null || tab === "analysis")) refresh();
    },
    zoom,
    leave() { resized?.disconnect(); },
    shape: () => detail?.shape,
    frame: () => detail?.frame,
  };
}
