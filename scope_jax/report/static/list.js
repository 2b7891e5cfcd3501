// Every rollout of the run as a list: filters, full-text search, sorting.
"use strict";

const PAGE = 50;
const ALL = "";

const COLUMNS = [
  { name: "uid", text: "rollout" }, { name: "reward", text: about.compared ? "score" : "reward", sort: true }, { name: "advantage", text: "advantage", sort: true },
  { name: "judge", text: "judge", sort: true }, { name: "truth", text: "truth", sort: true }, { name: "gap", text: about.compared ? "spread" : "disagree", sort: true },
  { name: "searches", text: "searches", sort: true }, { name: "tokens", text: "tokens", sort: true }, { name: "outcome", text: "outcome" }, { name: "task", text: "task" },
];
const FILTERS = ["run", "iteration", "stage", "step", "outcome", "type", "sample", "flaw", "source", "errors"];

/** How far judge and truth may be apart in a rollout that the judge got right. */
const APART = 0.3;

/** The fifth of the judge's scores that a rollout is in: 0 to 4. */
const judgedFifth = (row) => Math.min(Math.floor(of(row, "judge") * 5), 4);

const fifthText = (place) => `${(place / 5).toFixed(1)} to ${((Number(place) + 1) / 5).toFixed(1)}`;

const listState = { query: "", hits: null, searching: null };

/** Rows that the filters leave, in order; the same for the list and for next and previous. */
function chosenRows(state) {
  const wanted = FILTERS.filter((name) => state[name] !== undefined && state[name] !== ALL);
  const words = (state.task || "").toLowerCase();
  const fits = (row) => wanted.every((name) => {
    if (name === "errors") return of(row, "errors").length > 0;
    if (name === "flaw") return (of(row, "flaws") || []).includes(state.flaw);
    if (name === "source") return of(row, "source") === state.source || of(row, "uid") === state.source;
    return String(of(row, name)) === String(state[name]);
  }) && (state.apart === undefined || (judgedFifth(row) === Number(state.apart) && of(row, "gap") > APART)) && (!words || of(row, "task").toLowerCase().includes(words)) && (!state.q || !listState.hits || listState.hits.has(row));
  const rows = [];
  for (let row = 0; row < store.rows.length; row++) if (fits(row)) rows.push(row);
  if (state.sort) {
    const sign = state.up === "1" ? 1 : -1;
    const value = (row) => of(row, state.sort);
    rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === y) return a - b;
      if (x === null) return 1; // what is not known comes last
      if (y === null) return -1;
      return sign * (x - y);
    });
  }
  return rows;
}

/** Makes `listState.hits` those of the state's query; `then` when they are there. */
async function findText(state, status, then) {
  const query = (state.q || "").toLowerCase();
  if (query === listState.query) return;
  listState.searching?.abort();
  listState.query = query;
  listState.hits = null;
  if (!query) return;
  const search_ = new AbortController();
  listState.searching = search_;
  listState.hits = new Set();
  status("searching");
  try {
    const hits = await search(query, (done) => status(`searching: ${Math.round(100 * done)}%`), search_.signal);
    if (search_.signal.aborted) return;
    listState.hits = hits;
  } catch (error) {
    status(`the search failed: ${error.message}`);
    return;
  }
  then();
}

function values(name, state) {
  const before = FILTERS.slice(0, FILTERS.indexOf(name));
  const found = new Set();
  for (let row = 0; row < store.rows.length; row++) {
    if (before.every((other) => ["errors", "source", "flaw"].includes(other) || !state[other] || String(of(row, other)) === String(state[other]))) for (const value of name === "flaw" ? of(row, "flaws") || [] : [of(row, name)]) found.add(value);
  }
  return [...found].sort((a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b))));
}

function viewList(state) {
  const body = el("div", { class: "list" });
  const status = el("p", { class: "note", role: "status" });
  const tell = (text) => { status.textContent = text; };
  const set = (changes) => go({ ...state, page: undefined, ...changes, view: "rollouts" });
  const show = () => fillList(state, body, tell);
  const select = (name, label, texts = {}) => {
    const found = values(name, state).filter((value) => value !== "" && value !== null);
    if (found.length < 2 && !state[name]) return null;
    return chooser(label, [[ALL, "all"], ...found.map((value) => [value, texts[value] ?? String(value).replaceAll("_", " ")])], state[name] ?? ALL, (value) => set({ [name]: value || undefined }));
  };
  const typed = (name, label, placeholder, marked) => {
    let wait = 0;
    return el("label", { class: "field grow" }, el("span", {}, label), el("input", { type: "search", id: `find-${name}`, value: state[name] || "", placeholder, "data-search": marked,
      oninput: (event) => { clearTimeout(wait); wait = setTimeout(() => set({ [name]: event.target.value.trim() || undefined }), 250); } }));
  };
  const controls = el("div", { class: "controls" },
    typed("q", "Search in everything that was said", "text", true), typed("task", "Task contains", "text"),
    runs.length > 1 ? select("run", "Run", Object.fromEntries(runs.map((run, i) => [i, run.folder]))) : null,
    select("iteration", "Iteration"), select("stage", "Stage", STAGE_NAMES), select("step", "Step"), select("outcome", "Outcome"), select("type", about.compared ? "Benchmark" : "Type"), about.compared ? select("sample", "Model") : null, select("flaw", "Flaw"),
    chooser("Sort by", [["", "order of the run"], ...COLUMNS.filter((c) => c.sort).map((c) => [c.name, c.name === "gap" && !about.compared ? "disagreement" : c.text])], state.sort || "", (value) => set({ sort: value || undefined })),
    state.sort ? chooser("Order", [["", "highest first"], ["1", "lowest first"]], state.up || "", (value) => set({ up: value || undefined })) : null,
    el("label", { class: "check" }, el("input", { type: "checkbox", checked: Boolean(state.errors), onchange: (event) => set({ errors: event.target.checked ? "1" : undefined }) }), " with errors only"),
    state.source ? el("button", { type: "button", onclick: () => set({ source: undefined }) }, `of task ${state.source} ×`) : null,
    state.apart ? el("button", { type: "button", onclick: () => set({ apart: undefined }) }, `judged ${fifthText(state.apart)}, off by more than ${APART} ×`) : null);
  show();
  findText(state, tell, show);
  return [el("h1", { tabindex: -1 }, VIEWS.rollouts[0]), controls, status, body];
}

function fillList(state, body, tell) {
  const rows = chosenRows(state);
  const pages = Math.max(1, Math.ceil(rows.length / PAGE));
  const page = Math.min(Number(state.page || 1), pages);
  const shown = rows.slice((page - 1) * PAGE, page * PAGE);
  const held = about.rollouts.held;
  const left = store.served || held === store.rows.length ? "" : ` This file holds the conversations of ${number(held)} of ${number(store.rows.length)}; python scripts/report.py RUN --serve shows all.`;
  tell(`${number(rows.length)} of ${number(store.rows.length)} rollouts${store.complete ? "" : " read so far"}${state.q ? ` with "${state.q}"` : ""}.${left}`);
  const sorter = (column) => {
    if (!column.sort) return { value: column.text, class: "left" };
    const active = state.sort === column.name;
    return { value: el("button", { type: "button", class: "plain", onclick: () => go({ ...state, sort: column.name, up: active && state.up !== "1" ? "1" : undefined, page: undefined }) },
      column.text, el("span", { "aria-hidden": "true" }, active ? (state.up === "1" ? " ▲" : " ▼") : "")), "aria-sort": active ? (state.up === "1" ? "ascending" : "descending") : "none" };
  };
  const cell = (row, column) => {
    const value = of(row, column.name);
    if (column.name === "uid") {
      return el("span", {}, isHeld(row) ? link(value, { ...state, view: "rollout", uid: value, run: of(row, "run") }, { "data-row": true }) : el("span", { class: "soft", title: "its conversation is not in this file" }, value));
    }
    if (column.name === "task") return { value: visible(value), class: "text" };
    if (column.name === "outcome") return { value: String(value).replaceAll("_", " "), class: "word" };
    if (column.name === "advantage" && value) return { value: number(value), style: { background: shade(value) } };
    return number(value);
  };
  const turn = (to, text, off) => el("button", { type: "button", disabled: off, onclick: () => go({ ...state, page: to }) }, text);
  const columns = COLUMNS.filter((column) => !column.sort || column.name === state.sort || rows.some((row) => of(row, column.name) !== null));
  fill(body,
    shown.length ? table(columns.map(sorter), shown.map((row) => columns.map((column) => cell(row, column))), { caption: "Rollouts", classes: "rollouts" }) : note("No rollout is left by these filters."),
    pages > 1 ? el("nav", { class: "pages", "aria-label": "pages" }, turn(1, "« first", page === 1), turn(page - 1, "‹ previous", page === 1), el("span", {}, `page ${page} of ${number(pages)}`), turn(page + 1, "next ›", page === pages), turn(pages, "last »", page === pages)) : null);
}
