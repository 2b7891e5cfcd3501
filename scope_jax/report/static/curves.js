// Every metric as a curve: searchable, zoomable, several runs as arms with intervals.
"use strict";

const curveState = { stage: "solver", query: "", smooth: 0, apart: false };

/** Where a stage's iterations change, as positions between its records. */
function iterationMarks(stage, of = runs.map((_, i) => i)) {
  const longest = of.map((run) => runs[run].curves[stage].iteration).reduce((a, b) => (b.length > a.length ? b : a), []);
  const marks = [];
  longest.forEach((iteration, i) => { if (i && longest[i - 1] !== iteration) marks.push({ x: i + 0.5 }); });
  return marks;
}

/** An arm's mean with its interval over runs; of a single run its own values. */
function armCurve(arm, stage, name, { name: shown, colour, smooth = 0 }) {
  const each = arm.runs.map((run) => curve(run, stage, name)).filter(Boolean).map((values) => smoothed(values, smooth));
  const length = Math.max(0, ...each.map((values) => values.length));
  const x = [], y = [], low = [], high = [];
  for (let i = 0; i < length; i++) {
    const values = each.map((one) => one[i]);
    const middle = mean(values);
    if (middle === null) continue;
    const error = half(values);
    x.push(i + 1);
    y.push(middle);
    low.push(error === null ? null : middle - error);
    high.push(error === null ? null : middle + error);
  }
  return { name: shown, colour, x, y, ...(each.length > 1 ? { low, high } : {}) };
}

/** Lines of a metric: one per arm, or one per run. */
function armSeries(stage, name, smooth, apart = false) {
  const lines = apart ? runs.map((run, i) => ({ name: run.folder, runs: [i] })) : about.arms;
  return lines
    .map((arm, index) => armCurve(arm, stage, name, { name: lines.length > 1 ? arm.name : name, colour: index, smooth }))
    .filter((one) => one.x.length);
}

const ORDER = ["reward", "eval", "truth", "tasks", "alarm", "judge", "rollout", "preference", "loss", "agree", "errors", "perf", "time"];

/** All metrics of a stage, those first that people look at first. */
function metricNames(stage) {
  const rank = (name) => (ORDER.indexOf(name.split("/")[0]) + 1 || ORDER.length + 1) - (name === "reward/mean" ? 0.5 : 0);
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.curves[stage].metrics)))];
  return names.sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
}

function viewCurves(state) {
  const stages = STAGES.filter((stage) => metricNames(stage).length);
  if (!stages.length) return [el("h1", { tabindex: -1 }, "Curves"), note("Nothing was logged yet.")];
  curveState.stage = stages.includes(state.stage) ? state.stage : stages.includes(curveState.stage) ? curveState.stage : stages[0];
  curveState.query = state.metric ?? curveState.query;
  const grid = el("div", {});
  const status = el("p", { class: "note", role: "status" });
  const show = () => {
    forgetPlots();
    const words = curveState.query.toLowerCase().split(/\s+/).filter(Boolean);
    const names = metricNames(curveState.stage).filter((name) => words.every((word) => name.toLowerCase().includes(word)));
    status.textContent = `${names.length} metrics${words.length ? ` with "${words.join(" ")}"` : ""}. Drag over a curve to zoom in, double-click to see all; the heading enlarges it.`;
    fill(grid, ...[...grouped(names, (name) => name.split("/")[0])].map(([prefix, own]) =>
      el("details", { open: true, class: "metrics" }, el("summary", {}, el("h2", {}, `${prefix}/ `, el("span", { class: "count" }, own.length))),
        el("div", { class: "plots" }, own.map(metricPlot)))));
  };
  const find = el("input", { type: "search", value: curveState.query, placeholder: "words of its name, such as reward mean", "data-search": true,
    oninput: (event) => { curveState.query = event.target.value; show(); } });
  const smooth = el("input", { type: "range", min: 0, max: 0.95, step: 0.05, value: curveState.smooth,
    oninput: (event) => { curveState.smooth = Number(event.target.value); show(); } });
  const controls = el("div", { class: "controls" },
    chooser("Stage", stages.map((s) => [s, STAGE_NAMES[s]]), curveState.stage, (value) => { curveState.stage = value; go({ view: "curves", stage: value }, true); show(); }),
    el("label", { class: "field grow" }, el("span", {}, "Metric"), find),
    el("label", { class: "field" }, el("span", {}, "Smoothing"), smooth),
    about.arms.length < runs.length
      ? el("label", { class: "check" }, el("input", { type: "checkbox", checked: curveState.apart, onchange: (event) => { curveState.apart = event.target.checked; show(); } }), " each run by itself") : null);
  show();
  return [el("h1", { tabindex: -1 }, "Curves"), controls, status, grid];
}

function metricPlot(name) {
  const { stage, smooth, apart } = curveState;
  return linePlot({ title: name, series: armSeries(stage, name, smooth, apart), marks: iterationMarks(stage), sync: "curves", onopen: () => enlarge(name) });
}

/** A metric on the whole screen: zoom by buttons, values by arrow keys, all as a table. */
function enlarge(name) {
  const { stage, smooth, apart } = curveState;
  const series = armSeries(stage, name, smooth, apart);
  const plot = linePlot({ title: `${STAGE_NAMES[stage]}: ${name}`, series, marks: iterationMarks(stage), height: Math.max(220, Math.min(innerHeight - 330, 460)), wide: true });
  const readout = el("p", { class: "readout", role: "status" }, "Arrow keys read values, + and − zoom, 0 shows all.");
  const length = Math.max(0, ...series.map((one) => one.x[one.x.length - 1]));
  let at = 0;
  const read = (to) => {
    at = Math.min(Math.max(to, 1), length);
    const values = series.map((one) => {
      const i = one.x.indexOf(at);
      const error = one.high && i >= 0 && one.high[i] !== null ? one.high[i] - one.y[i] : null;
      return `${one.name}: ${i < 0 ? "–" : error === null ? number(one.y[i]) : plusMinus(one.y[i], error)}`;
    });
    const u = plot.handle.plot();
    if (u) u.setCursor({ left: u.valToPos(at, "x"), top: u.bbox.height / devicePixelRatio / 2 });
    readout.textContent = `step ${at}. ${values.join("; ")}`;
  };
  const zoom = (factor) => {
    const u = plot.handle.plot();
    if (!u) return;
    const { min, max } = u.scales.x;
    const middle = at >= min && at <= max && at ? at : (min + max) / 2;
    u.setScale("x", factor ? { min: Math.max(1, middle - ((max - min) * factor) / 2), max: Math.min(length, middle + ((max - min) * factor) / 2) } : { min: 1, max: length });
  };
  const button = (text, label, act) => el("button", { type: "button", "aria-label": label, onclick: act }, text);
  const rows = [...new Set(series.flatMap((one) => one.x))].sort((a, b) => a - b);
  const values = table(["step", ...series.map((one) => one.name)], rows.map((x) => [String(x), ...series.map((one) => number(one.y[one.x.indexOf(x)]))]), { caption: name });
  const dialog = el("dialog", { class: "large", "aria-label": name, onclose: () => dialog.remove() },
    el("div", { class: "controls" }, button("+", "zoom in", () => zoom(0.5)), button("−", "zoom out", () => zoom(2)), button("0", "show all", () => zoom(0)),
      button("‹", "value before", () => read(at - 1)), button("›", "next value", () => read(at + 1)),
      el("button", { type: "button", class: "push", onclick: () => dialog.close() }, "Close")),
    plot, readout, el("details", {}, el("summary", {}, "Values as a table"), values));
  dialog.addEventListener("keydown", (event) => {
    if (event.target.closest("summary, table")) return;
    const act = { ArrowLeft: () => read(at - 1), ArrowRight: () => read(at + 1), "+": () => zoom(0.5), "-": () => zoom(2), 0: () => zoom(0) }[event.key];
    if (act) { act(); event.preventDefault(); }
    event.stopPropagation();
  });
  document.body.append(dialog);
  dialog.showModal();
}
