// What each thread ran when. Time runs to the right; the newest steps are at the right edge.

import { duration, el, replace } from "./format.js";

const COLOURS = 8;

export function timeline(root) {
  let seconds = 2;
  let spans = null;
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
      el("div", { class: "heading" }, el("h2", {}, "Timeline"), el("span", { class: "note" }, "steps of tasks on each thread, recorded while this page is open")),
      el("div", { class: "filters" }, [10, 2, 0.5, 0.1, 0.02].map((value) => el("button", { "data-span": value, "aria-pressed": String(value === seconds) }, duration(value))),
        el("button", { "data-hold": "", "aria-pressed": String(held) }, held ? "Go on" : "Hold"),
        el("a", { class: "button", href: "/api/timeline/trace", download: "aqueduct-trace.json" }, "Chrome trace")),
      el("ul", { class: "legend" }, [...colours].slice(-16).map(([key, index]) => el("li", {}, el("i", { class: `lane c${index}` }), key.replace(/^(\d+) /, "job $1: "))))));
  }

  function draw() {
    if (!spans) return;
    const ends = spans.flatMap(([, , steps]) => (steps.length ? [steps[steps.length - 1].start_seconds + steps[steps.length - 1].length_seconds] : []));
    if (!ends.length) {
      canvas.replaceChildren(el("p", { class: "empty" }, "Nothing has run since this page was opened."));
      return;
    }
    const last = Math.max(...ends);
    const width = 1200;
    const x = (time) => ((time - last + seconds) / seconds) * width;
    const rows = spans.map(([worker, thread, steps]) => {
      const shown = steps.filter((step) => step.start_seconds + step.length_seconds > last - seconds);
      const busy = shown.reduce((all, step) => all + step.length_seconds, 0) / seconds;
      const svg = el("svg", { viewBox: `0 0 ${width} 34`, preserveAspectRatio: "none" });
      for (const step of shown) {
        const left = Math.max(0, x(step.start_seconds));
        const right = x(step.start_seconds + step.length_seconds);
        svg.append(el("rect", { class: `lane c${colour(step)}`, x: left.toFixed(2), y: 3, width: Math.max(0.4, right - left).toFixed(2), height: 28 },
          el("title", {}, `${step.name} [${step.partition}]\njob ${step.job}, in ${step.node}\n${duration(step.length_seconds)}, then ${step.end}`)));
      }
      return el("div", { class: "lanerow" }, el("span", { class: "label" }, `worker ${worker}, thread ${thread}`), svg, el("span", { class: "figure" }, `${Math.round(Math.min(1, busy) * 100)} %`));
    });
    canvas.replaceChildren(...rows, el("div", { class: "lanerow axis" }, el("span", { class: "label" }, ""), el("div", { class: "ends" }, el("span", {}, `−${duration(seconds)}`), el("span", {}, "now")), el("span", {})));
  }

  async function load() {
    if (held) return;
    const answer = await fetch("/api/timeline");
    if (!answer.ok) return;
    spans = (await answer.json()).threads;
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
