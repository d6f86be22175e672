// Draws the pictures of a report: its data is in the page, and nothing is asked of anybody.

import { bytes, clock, duration, el, exact, percent } from "./format.js";
import { fitting, graph, scaleToFit } from "./graph.js";
import { KINDS, eventTable } from "./pages.js";

const COLOURS = 8;
const WIDTH = 900;

const stageName = (shape, stage) => (shape.stages[stage]?.nodes ?? []).map((node) => shape.nodes[node].name).join(" → ");

function place(id, name, ...children) {
  document.querySelector(`#job-${id} .${name}`)?.replaceChildren(...children.flat().filter(Boolean));
}

function drawGraph({ id, shape, frame }) {
  const canvas = el("div", { class: "canvas" });
  place(id, "picture-graph", canvas);
  const draw = () => {
    const plan = fitting(shape, canvas.clientWidth - 2);
    const drawn = graph(shape, () => {}, plan);
    drawn.scale(scaleToFit(plan, canvas.clientWidth - 2));
    drawn.update(frame, null);
    canvas.replaceChildren(drawn.svg);
  };
  draw();
  let before = canvas.clientWidth;
  new ResizeObserver(() => {
    if (Math.abs(canvas.clientWidth - before) <= 1) return;
    before = canvas.clientWidth;
    draw();
  }).observe(canvas);
}

const ends = (seconds) => el("div", { class: "lanerow axis" }, el("span", { class: "label" }), el("div", { class: "ends" }, el("span", {}, "0 s"), el("span", {}, duration(seconds))), el("span"));

// What each thread ran: for each slot of time a column, as high as the share of it that was run.
function drawTimeline({ id, shape, life, frame }) {
  const slots = Math.max(1, ...life.threads.map((thread) => thread.slots.length));
  const [slot, height] = [life.slot_seconds, 40];
  const used = new Set();
  const lanes = life.threads.map(({ worker, thread, slots: columns }) => {
    const svg = el("svg", { viewBox: `0 0 ${slots} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `worker ${worker}, thread ${thread}` });
    let all = 0;
    columns.forEach((column, index) => {
      let top = height;
      for (const [stage, ns] of [...column.busy_ns, ...(column.other_ns ? [[-1, column.other_ns]] : [])]) {
        const share = ns / 1e9 / slot;
        all += share;
        top -= share * height;
        used.add(stage);
        svg.append(el("rect", { class: stage < 0 ? "lane rest" : `lane c${stage % COLOURS}`, x: index, y: Math.max(0, top).toFixed(2), width: 1.02, height: (share * height).toFixed(2) },
          el("title", {}, `${stage < 0 ? "others" : stageName(shape, stage)}\n${percent(share)} of ${duration(slot)} at ${duration(index * slot)}`)));
      }
    });
    return el("div", { class: "lanerow" }, el("span", { class: "label" }, `worker ${worker}, thread ${thread}`), svg, el("span", { class: "figure" }, percent(Math.min(1, all / slots))));
  });
  const legend = [...used].sort((a, b) => a - b).slice(0, 24);
  place(id, "picture-timeline", el("div", { class: "lanes" }, lanes, ends(Math.max(slots * slot, frame.summary.elapsed_seconds))),
    el("ul", { class: "legend" }, legend.map((stage) => el("li", {}, el("i", { class: stage < 0 ? "lane rest" : `lane c${stage % COLOURS}` }), stage < 0 ? "others" : stageName(shape, stage)))));
}

// What the job held on each worker, and what was charged there by all jobs.
function drawMemory({ id, shape, life, frame }) {
  const [height, looks] = [130, life.memory];
  const seconds = Math.max(frame.summary.elapsed_seconds, 1e-3);
  const x = (time) => ((Math.min(time, seconds) / seconds) * WIDTH).toFixed(1);
  const limit = shape.limit_bytes;
  const y = (value) => (height - (Math.min(value, limit) / limit) * (height - 6)).toFixed(1);
  const workers = Array.from({ length: shape.workers }, (_, worker) => {
    const base = looks.map(() => 0);
    const parts = looks.length < 2 ? [] : KINDS.slice(0, 5).map(([kind], index) => {
      const lower = looks.map((look, at) => `${x(look.at_seconds)},${y(base[at])}`);
      looks.forEach((look, at) => { base[at] += look.held_bytes[worker]?.[index] ?? 0; });
      const upper = looks.map((look, at) => `${x(look.at_seconds)},${y(base[at])}`);
      return el("path", { class: `part ${kind}`, d: `M${upper.join(" L")} L${lower.reverse().join(" L")} Z` });
    });
    const charged = [];
    for (const thread of life.threads.filter((one) => one.worker === worker)) {
      thread.slots.forEach((slot, index) => { charged[index] = Math.max(charged[index] ?? 0, slot.charged_bytes); });
    }
    // A slot in which nothing ran says nothing.
    const points = charged.map((value, index) => (value ? `${x((index + 0.5) * life.slot_seconds)},${y(value)}` : null)).filter(Boolean);
    const most = Math.max(0, ...base);
    return el("section", { class: "card wide" },
      el("header", {}, el("h3", {}, `Worker ${worker}`), el("span", { class: "figure" }, `${looks.length ? `at most ${bytes(most)} seen held by the job, ` : ""}${bytes(Math.max(0, ...charged.filter(Boolean)))} charged at most, of ${bytes(limit)}`)),
      el("figure", { class: "area" },
        el("svg", { viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `Memory of worker ${worker} over time` },
          el("line", { class: "limit", x1: 0, x2: WIDTH, y1: 6, y2: 6 }), parts, el("polyline", { class: "charged", points: points.join(" ") })),
        el("figcaption", {}, el("span", {}, "0 s"), el("span", {}, `limit ${bytes(limit)}`), el("span", {}, duration(seconds)))));
  });
  place(id, "picture-memory", workers,
    el("ul", { class: "legend" }, KINDS.slice(0, 5).map(([kind, name]) => el("li", {}, el("i", { class: `part ${kind}` }), name)), el("li", {}, el("i", { class: "lane rest" }), "line: charged, by all jobs")),
    eventTable(life.events.slice(-20).reverse()));
}

const data = JSON.parse(document.getElementById("data").textContent);
for (const job of data.jobs) {
  for (const draw of [drawGraph, drawTimeline, drawMemory]) {
    try {
      draw(job);
    } catch (error) {
      console.error(error);
    }
  }
}
document.querySelector(".top .link").title = `${clock(data.made_ms)}, ${exact(data.jobs.length)} jobs`;
