// Elements, and text that cannot do anything: it only ever becomes a text node.
"use strict";

/** An element. `props`: attributes; `on..` are listeners; false and null are left out. */
function el(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

/** Puts children in the place of what a node has; null and false are left out. */
function fill(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
}

// Control and format characters: they can hide text, turn it round or split a line.
const HIDDEN = /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** Text of models as nodes: hidden characters are named, what is looked for is marked. */
function visible(text, query) {
  const fragment = document.createDocumentFragment();
  let from = 0;
  for (const match of text.matchAll(HIDDEN)) {
    fragment.append(...marked(text.slice(from, match.index), query));
    const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    fragment.append(el("span", { class: "hidden-character", title: "a hidden character" }, `U+${code}`));
    from = match.index + match[0].length;
  }
  fragment.append(...marked(text.slice(from), query));
  return fragment;
}

function marked(text, query) {
  if (!query) return [text];
  const small = text.toLowerCase();
  if (small.length !== text.length) return [text];
  const found = [];
  let from = 0;
  for (let at = small.indexOf(query); at >= 0 && found.length < 2000; at = small.indexOf(query, from)) {
    found.push(text.slice(from, at), el("mark", {}, text.slice(at, at + query.length)));
    from = at + query.length;
  }
  return [...found, text.slice(from)];
}

const LONGEST = 6000;
const PIECE = 100000; // characters that a click adds: lines without a space are slow to lay out

/** Preformatted text of a model; a very long one has a button for more of it. */
function said(text, { query = "", kind = "", spans = null } = {}) {
  text = String(text ?? "");
  const box = el("div", { class: `said ${kind}`, dir: "auto" });
  const show = (from, to) => {
    const own = spans?.map((s) => ({ ...s, from: Math.max(s.from, from) - from, to: s.to - from }));
    box.append(el("span", { class: "piece" }, shaded(text.slice(from, to), own, query)));
    if (to >= text.length) return;
    const more = el("button", { type: "button", class: "more", onclick: () => {
      more.remove();
      show(to, Math.min(to + PIECE, text.length));
      box.querySelector(".more")?.focus();
    } }, `show more: ${(text.length - to).toLocaleString("en")} characters are left`);
    box.append(more);
  };
  const at = query ? text.toLowerCase().indexOf(query) : -1;
  show(0, text.length <= LONGEST * 1.2 ? text.length : Math.min(Math.max(LONGEST, at + 500), text.length));
  return box;
}

/** Text with what was trained on in its shade. `spans`: {from, to, advantage}. */
function shaded(text, spans, query) {
  if (!spans || !spans.length) return [visible(text, query)];
  const parts = [];
  let from = 0;
  for (const span of spans) {
    const to = Math.min(span.to, text.length);
    if (to <= from) continue;
    if (span.from > from) parts.push(visible(text.slice(from, span.from), query));
    parts.push(el("span", { class: "trained", title: `trained on, advantage ${number(span.advantage)}`,
      style: { background: shade(span.advantage) } }, visible(text.slice(Math.max(span.from, from), to), query)));
    from = to;
  }
  parts.push(visible(text.slice(from), query));
  return parts;
}

/** The colour of an advantage: more likely in one, less likely in the other. */
function shade(advantage) {
  if (!Number.isFinite(advantage) || advantage === 0) return "var(--shade-none)";
  const percent = Math.round(Math.min(Math.abs(advantage) / 2, 1) * 24 + 8);
  return `color-mix(in srgb, var(--${advantage > 0 ? "good" : "bad"}) ${percent}%, transparent)`;
}

function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return value.toLocaleString("en");
  if (Math.abs(value) >= 1000) return value.toLocaleString("en", { maximumFractionDigits: 1 });
  return String(Number(value.toPrecision(4)));
}

function seconds(value) {
  if (!Number.isFinite(value)) return "–";
  if (value < 59.95) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A table from rows of cells; a cell is text, a node or {value, ...attributes}. */
function table(head, rows, { caption = "", classes = "" } = {}) {
  const cell = (tag, content, extra = {}) => {
    if (content && content.constructor === Object) {
      const { value, ...more } = content;
      return el(tag, { ...extra, ...more }, value);
    }
    return el(tag, extra, content ?? "–");
  };
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption || "table" },
    el("table", { class: classes },
      caption ? el("caption", {}, caption) : null,
      el("thead", {}, el("tr", {}, head.map((h) => cell("th", h, { scope: "col" })))),
      el("tbody", {}, rows.map((row) => el("tr", {},
        row.map((c, i) => (i ? cell("td", c) : cell("th", c, { scope: "row" }))))))));
}

/** A part of the page for each run, beside each other where there is room. */
function perRun(build) {
  if (runs.length === 1) return build(0);
  return el("div", { class: "runs" }, runs.map((run, number) => el("div", { class: "of-run" }, el("h2", { class: "run" }, run.folder), build(number))));
}

function section(title, ...children) {
  return el("section", {}, el("h2", {}, title), ...children);
}

function note(...children) {
  return el("p", { class: "note" }, ...children);
}

/** A select with a label; `choices`: values, or [value, text]. */
function chooser(label, choices, value, change) {
  const select = el("select", { onchange: () => change(select.value) },
    choices.map((choice) => {
      const [own, text] = Array.isArray(choice) ? choice : [choice, String(choice)];
      return el("option", { value: own, selected: String(own) === String(value) }, text);
    }));
  return el("label", { class: "field" }, el("span", {}, label), select);
}

function link(text, to, props) {
  return el("a", { href: address(to), ...props }, text);
}
