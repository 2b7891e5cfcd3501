// uPlot in this page's colours: lines with bands and intervals, histograms.
"use strict";

function tint(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function colour(index) {
  return tint(`series-${index % 8}`);
}

const drawn = new Set(); // every plot on the page, to be drawn again in other colours

function forgetPlots() {
  for (const plot of drawn) plot.end();
  drawn.clear();
}

/**
 * A figure with lines.
 * series: [{name, colour, x, y, low, high, dash, points}]; low and high make a band, or
 * with `bars` an interval at each point. marks: [{x, text, bad}] vertical lines.
 */
function linePlot({ title, series, marks = [], height = 200, range = null, xName = "step", bars = false,
  ticks = null, sync = "", wide = false, onopen = null }) {
  const xs = [...new Set(series.flatMap((one) => one.x))].sort((a, b) => a - b);
  const place = new Map(xs.map((x, i) => [x, i]));
  const column = (one, values) => {
    const out = new Array(xs.length).fill(null);
    one.x.forEach((x, i) => { out[place.get(x)] = values[i] ?? null; });
    return out;
  };
  const data = [xs];
  const shown = [{ label: xName, value: (_, v) => (v === null ? "–" : ticks ? ticks[Math.round(v)] ?? number(v) : number(v)) }];
  const bands = [];
  for (const one of series) {
    const own = column(one, one.y);
    data.push(own);
    shown.push({
      label: one.name, stroke: colour(one.colour), width: one.width || 1.8, dash: one.dash, spanGaps: true,
      points: { show: bars || xs.length < 40, size: bars ? 8 : 4 },
      value: (_, v, s, i) => {
        if (ticks && i !== null) { // series stand a little beside each other: one tick, one reading
          const own = one.x.findIndex((x) => Math.round(x) === Math.round(xs[i]));
          return own < 0 ? "–" : plusMinus(one.y[own], one.high?.[own] === null || !one.high ? null : one.high[own] - one.y[own]);
        }
        if (v === null || v === undefined) return "–";
        const error = one.high && i !== null ? column(one, one.high)[i] - v : null;
        return Number.isFinite(error) ? plusMinus(v, error) : number(v);
      },
    });
    if (one.low && !bars) {
      data.push(column(one, one.high), column(one, one.low));
      const thin = { stroke: "transparent", width: 0, points: { show: false }, label: "" };
      shown.push({ ...thin }, { ...thin });
      bands.push({ series: [data.length - 2, data.length - 1], fill: `${colour(one.colour)}33` });
    }
  }
  return figure({ title, data, shown, bands, height, range, marks, sync, wide, xName, onopen, ticks,
    intervals: bars ? series.map((one) => [one, column(one, one.low || []), column(one, one.high || [])]) : [],
    names: series.map((one) => one.name) });
}

function axes(ticks, xName) {
  const common = { stroke: tint("soft"), grid: { stroke: tint("line"), width: 1 }, ticks: { show: false },
    font: "11px system-ui, sans-serif" };
  const across = { ...common, grid: { show: false }, size: 30, label: xName, labelSize: 14, labelFont: "11px system-ui, sans-serif" };
  if (ticks) {
    across.splits = () => ticks.map((_, i) => i);
    across.values = (_, splits) => splits.map((i) => ticks[i] ?? "");
  } else {
    across.incrs = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 100000];
  }
  return [across, { ...common, size: 56, values: (_, splits) => splits.map((v) => number(Number(v.toPrecision(6)))) }];
}

/** A range of values with the intervals around them. */
function widened(low, high, intervals) {
  const ends = known(intervals.flatMap(([, lows, highs]) => [...lows, ...highs]));
  return [Math.min(low ?? ends[0] ?? 0, ...ends), Math.max(high ?? ends[0] ?? 1, ...ends)];
}

/** The y axis from the lowest to the highest value, with room where they are equal. */
function spread(low, high) {
  const room = low === high ? Math.abs(low) * 0.1 || 0.5 : (high - low) * 0.08;
  return [low - room, high + room];
}

/** Vertical lines behind the curves, and intervals as bars in front of them. */
function hooks(marks, intervals) {
  const line = (u, x, stroke, dash) => {
    const at = Math.round(u.valToPos(x, "x", true));
    u.ctx.save();
    u.ctx.strokeStyle = stroke;
    u.ctx.setLineDash(dash);
    u.ctx.beginPath();
    u.ctx.moveTo(at, u.bbox.top);
    u.ctx.lineTo(at, u.bbox.top + u.bbox.height);
    u.ctx.stroke();
    u.ctx.restore();
  };
  return {
    drawAxes: [(u) => {
      for (const mark of marks) {
        if (mark.x < u.scales.x.min || mark.x > u.scales.x.max) continue;
        line(u, mark.x, tint(mark.bad ? "bad" : "soft"), [4, 3]);
      }
    }],
    draw: [(u) => {
      for (const [one, low, high] of intervals) {
        u.ctx.save();
        u.ctx.strokeStyle = colour(one.colour);
        u.ctx.lineWidth = 2 * devicePixelRatio;
        u.data[0].forEach((x, i) => {
          if (low[i] === null || low[i] === undefined) return;
          const at = u.valToPos(x, "x", true);
          const ends = [u.valToPos(low[i], "y", true), u.valToPos(high[i], "y", true)];
          u.ctx.beginPath();
          u.ctx.moveTo(at, ends[0]);
          u.ctx.lineTo(at, ends[1]);
          for (const end of ends) {
            u.ctx.moveTo(at - 5, end);
            u.ctx.lineTo(at + 5, end);
          }
          u.ctx.stroke();
        });
        u.ctx.restore();
      }
    }],
  };
}

function figure({ title, data, shown, bands, height, range, marks, sync, wide, xName, onopen, ticks, intervals, names, bars }) {
  const box = el("div", { class: "plot" });
  const summary = names.map((name, i) => {
    const values = known(data[i + 1] || []);
    return values.length ? `${name}: first ${number(values[0])}, last ${number(values[values.length - 1])}` : name;
  });
  const heading = onopen
    ? el("button", { type: "button", class: "plain", onclick: onopen, title: "enlarge" }, title, el("span", { "aria-hidden": "true", class: "enlarge" }, " ⤢"))
    : title;
  const node = el("figure", { class: wide ? "wide" : "" }, el("figcaption", {}, heading), box);
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", `${title}. ${summary.slice(0, 8).join("; ")}`);
  let plot = null;
  const draw = () => {
    plot?.destroy();
    const width = Math.max(box.clientWidth, 160);
    const span = [data[0][0], data[0][data[0].length - 1]];
    const pad = bars || ticks ? 0.4 : span[0] === span[1] ? 1 : 0;
    plot = new uPlot({
      width, height, series: shown, bands, axes: axes(ticks, xName), padding: [8, 12, 0, 0],
      scales: {
        x: { time: false, range: (u, low, high) => (low === span[0] && high === span[1] ? [low - pad, high + pad] : [low, high]) },
        y: { range: range ? () => range : (u, low, high) => spread(...widened(low, high, intervals || [])) },
      },
      hooks: { ...hooks(marks, intervals || []), ...(bars ? {} : restingLegend) },
      legend: { live: true, isolate: false },
      cursor: { drag: { x: !ticks, y: false }, ...(sync ? { sync: { key: sync } } : {}) },
    }, data, box);
    // Its legend is of the pointer's place: what it says is in the label and the table.
    for (const [i, label] of [...box.querySelectorAll(".u-legend .u-series")].entries()) {
      if (shown[i] && shown[i].label === "") label.remove();
    }
  };
  const seen = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting) && !plot) draw();
  }, { rootMargin: "200px" });
  seen.observe(box);
  const sized = new ResizeObserver(() => {
    if (plot && Math.abs(plot.width - box.clientWidth) > 1) plot.setSize({ width: Math.max(box.clientWidth, 160), height });
  });
  sized.observe(box);
  const handle = { draw: () => plot && draw(), plot: () => plot, end: () => { seen.disconnect(); sized.disconnect(); plot?.destroy(); } };
  drawn.add(handle);
  node.handle = handle;
  return node;
}

/** Without a pointer the legend has the last values. */
const restingLegend = {
  ready: [(u) => u.setLegend({ idx: u.data[0].length - 1 }, false)],
  setLegend: [(u) => {
    if (u.legend.idx === null || u.legend.idx === undefined) u.setLegend({ idx: u.data[0].length - 1 }, false);
  }],
};

/** Bars of one or two histograms over the same bins. series: [{name, colour, counts}]. */
function barPlot({ title, labels, series, height = 170, xName = "", marks = [] }) {
  const paths = (i) => uPlot.paths.bars({ size: [0.85 / series.length, 80], align: series.length > 1 ? (i ? -1 : 1) : 0 });
  const data = [labels.map((_, i) => i), ...series.map((one) => one.counts)];
  const shown = [{ label: xName, value: (_, v) => (v === null ? "–" : labels[v]) },
    ...series.map((one, i) => ({ label: one.name, stroke: colour(one.colour), fill: `${colour(one.colour)}99`, width: 1,
      paths: paths(i), points: { show: false }, value: (_, v) => number(v) }))];
  const most = Math.max(1, ...series.flatMap((one) => one.counts));
  return figure({ title, data, shown, bands: [], height, range: [0, most * 1.08], marks, sync: "", xName, ticks: labels,
    names: series.map((one) => one.name), bars: true });
}
