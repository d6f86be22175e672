// What each thread ran when, and what went to disk and back. Time runs to the right; the newest is at the right edge.

import { bytes, duration, el, replace } from "./format.js";

const COLOURS = 8;
const WIDTH = 1200;
// Why a thread ran nothing, the worst first: what the tasks on it wait for.
const GAPS = [["parked", "parked: a receiver has no room"], ["memory", "short of memory"], ["blocked", "waits for disk or network"], ["idle", "waits for input"]];
const DISK = [["spill", "writes to disk"], ["read", "reads back"]];

export function timeline(root) {
  let seconds = 2;
  let spans = null;
  let disks = [];
  let held = false;
  const head = el("div");
  const canvas = el("div", { class: "lanes" });
  replace(root, el("main", { id: "page", tabindex: -1 }));
  root.replaceChildren(head, canvas);

  const colours = new Map();
  const colour = (span) => {
    const key = `${span.job} ${span.name}`;
    if (!colours.has(key)) colours.set(key, colours.size % COLOURS);
    return colours.get(key);
  };

  function controls() {
    replace(head, el("div", {},
      el("div", { class: "heading" }, el("h2", {}, "Timeline"), el("span", { class: "note" }, "steps of tasks on each thread, and what goes to disk and back; recorded while this page is open")),
      el("div", { class: "filters" }, [10, 2, 0.5, 0.1, 0.02].map((value) => el("button", { "data-span": value, "aria-pressed": String(value === seconds) }, duration(value))),
        el("button", { "data-hold": "", "aria-pressed": String(held) }, held ? "Go on" : "Hold"),
        el("a", { class: "button", href: "/api/timeline/trace", download: "aqueduct-trace.json" }, "Chrome trace")),
      el("ul", { class: "legend" }, [...colours].slice(-16).map(([key, index]) => el("li", {}, el("i", { class: `lane c${index}` }), key.replace(/^(\d+) /, "job $1: ")))),
      el("ul", { class: "legend" }, [...GAPS.map(([kind, text]) => [`gap ${kind}`, text]), ...DISK.map(([kind, text]) => [`disk ${kind}`, text])].map(([kind, text]) => el("li", {}, el("i", { class: kind }), text)))));
  }

  function draw() {
    if (!spans) return;
    const ends = spans.flatMap(([, , steps]) => (steps.length ? [steps[steps.length - 1].start_seconds + steps[steps.length - 1].length_seconds] : []));
    if (!ends.length) {
      canvas.replaceChildren(el("p", { class: "empty" }, "Nothing has run since this page was opened."));
      return;
    }
    const last = Math.max(...ends, ...disks.flatMap(([, work]) => work.slice(-1).map((span) => span.start_seconds + span.length_seconds)));
    const x = (time) => Math.max(0, ((time - last + seconds) / seconds) * WIDTH);
    const isShown = (span) => span.start_seconds + span.length_seconds > last - seconds;
    const row = (label, svg, figure) => el("div", { class: "lanerow" }, el("span", { class: "label" }, label), svg, el("span", { class: "figure" }, figure));
    const rows = spans.map(([worker, thread, steps]) => {
      const shown = steps.filter(isShown);
      const busy = shown.reduce((all, step) => all + step.length_seconds, 0) / seconds;
      const svg = el("svg", { viewBox: `0 0 ${WIDTH} 34`, preserveAspectRatio: "none" });
      gaps(svg, steps, x, last);
      // Steps too short to be seen stand for those beside them.
      let drawn = -1;
      for (const step of shown) {
        const left = x(step.start_seconds);
        const right = x(step.start_seconds + step.length_seconds);
        if (right < drawn + 0.3) continue;
        drawn = Math.max(right, left + 0.4);
        svg.append(el("rect", { class: `lane c${colour(step)}`, x: left.toFixed(2), y: 3, width: Math.max(0.4, right - left).toFixed(2), height: 28 },
          el("title", {}, `${step.name} [${step.partition}]\njob ${step.job}, in ${step.node}\n${duration(step.length_seconds)}, then ${step.end}`)));
      }
      return row(`worker ${worker}, thread ${thread}`, svg, `${Math.round(Math.min(1, busy) * 100)} %`);
    });
    for (const [worker, work] of disks) {
      const shown = work.filter(isShown);
      if (!shown.length) continue;
      const svg = el("svg", { class: "thin", viewBox: `0 0 ${WIDTH} 20`, preserveAspectRatio: "none" });
      for (const span of shown) {
        const left = x(span.start_seconds);
        const right = x(span.start_seconds + span.length_seconds);
        svg.append(el("rect", { class: `disk ${span.work}`, x: left.toFixed(2), y: span.work === "spill" ? 2 : 11, width: Math.max(0.4, right - left).toFixed(2), height: 7 },
          el("title", {}, `${span.holder} ${span.work === "spill" ? "writes" : "reads"} ${bytes(span.bytes)}${span.job === null ? "" : `\njob ${span.job}`}\n${duration(span.length_seconds)}`)));
      }
      rows.push(row(`worker ${worker}, disk`, svg, bytes(shown.reduce((all, span) => all + span.bytes, 0))));
    }
    canvas.replaceChildren(...rows, el("div", { class: "lanerow axis" }, el("span", { class: "label" }, ""), el("div", { class: "ends" }, el("span", {}, `−${duration(seconds)}`), el("span", {}, "now")), el("span", {})));
  }

  // What the tasks of a thread wait for while none of them runs.
  function gaps(svg, steps, x, last) {
    const ends = new Map();
    steps.forEach((step, index) => {
      ends.set(`${step.job} ${step.name} ${step.partition}`, step.end);
      const from = step.start_seconds + step.length_seconds;
      const to = steps[index + 1]?.start_seconds ?? last;
      const reasons = new Set(ends.values());
      const why = GAPS.find(([kind]) => reasons.has(kind));
      if (why && x(to) - x(from) > 0.5) svg.append(el("rect", { class: `gap ${why[0]}`, x: x(from).toFixed(2), y: 13, width: (x(to) - x(from)).toFixed(2), height: 8 }, el("title", {}, `${why[1]}\n${duration(to - from)}`)));
    });
  }

  async function load() {
    if (held) return;
    const answer = await fetch("/api/timeline");
    if (!answer.ok) return;
    ({ threads: spans, disks } = await answer.json());
    draw();
    controls();
  }

  const timer = setInterval(load, 1000);
  controls();
  load();
  return {
    update() {},
    zoom(value) { seconds = value; draw(); controls(); },
    hold() { held = !held; controls(); },
    leave() { clearInterval(timer); },
  };
}
