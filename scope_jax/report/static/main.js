// The page: navigation by address (#view=..), keys, colours.
"use strict";

const VIEWS = about.compared ? { compared: ["Scores", viewCompared], rollouts: ["Answers", viewList] } : {
  learned: ["Did it learn?", viewLearned], tasks: ["Tasks", viewTasks], judge: ["Judge", viewJudge], curves: ["Curves", viewCurves],
  time: ["Time", viewTime], rollouts: ["Rollouts", viewList], settings: ["Configuration", viewSettings],
};
const INNER = { rollout: viewRollout, group: viewGroup };

/** The address of a state: what is undefined or empty is left out. */
function address(state) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) if (value !== undefined && value !== null && value !== "") found.set(name, value);
  return `#${found}`;
}

function stateNow() {
  return { view: Object.keys(VIEWS)[0], ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) };
}

let quiet = false;

/** Goes to a state; `silent` changes the address only. */
function go(state, silent = false) {
  quiet = silent;
  if (silent) history.replaceState(null, "", address(state));
  else location.hash = address(state);
}

function headline() {
  const run = runs[0];
  if (about.compared) return [`judged by ${about.compared.judge}`, `${number(Object.keys(about.compared.models).length)} models`, `${number(store.rows.length)} answers`].join(" · ");
  const done = Object.entries(run.stages).filter(([name, stage]) => name.startsWith("iter_") && stage.status === "done").length;
  const times = STAGES.flatMap((stage) => known(run.curves[stage].unix));
  const length = times.length ? Math.max(...times) - (run.began ?? Math.min(...times)) : null;
  const rollouts = `${number(store.rows.length)} rollouts${store.complete ? "" : " so far"}`;
  if (runs.length > 1) return [`${runs.length} runs: ${runs.map((one) => one.folder).join(", ")}`, rollouts].join(" · ");
  return [`${run.folder}, configuration ${run.name}`, `${done} stages done`,
    length === null ? "nothing was logged yet" : `${seconds(length)} from the start to the last record`, rollouts].join(" · ");
}

const main = el("main", { id: "main" });
const menu = el("nav", { class: "views", "aria-label": "views" });
const summary = el("p", { class: "headline" });
const problems = el("div", {});

function frame() {
  const theme = el("button", { type: "button", class: "plain", onclick: () => {
    const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    recolour();
  } }, "light / dark");
  const words = el("button", { type: "button", class: "plain", onclick: showWords, "aria-keyshortcuts": "w" }, "words (w)");
  const keys = el("button", { type: "button", class: "plain", onclick: showKeys, "aria-keyshortcuts": "?" }, "keys (?)");
  document.getElementById("app").append(
    el("a", { class: "skip", href: "#main", onclick: (event) => { event.preventDefault(); main.querySelector("h1")?.focus(); } }, "to the content"),
    el("header", {}, el("div", { class: "top" }, el("strong", { class: "title" }, about.compared ? "Models compared" : runs.length > 1 ? "Runs compared" : `Run ${runs[0].name}`), summary, words, keys, theme), menu), problems, main);
}

function showProblems() {
  const found = [...about.problems, ...(store.problems || [])];
  fill(problems, ...(found.length ? [el("details", { class: "problems" }, el("summary", {}, `${found.length} ${found.length === 1 ? "file" : "files"} could not be read in full`), el("ul", {}, found.map((text) => el("li", {}, visible(text)))))] : []));
}

function recolour() {
  for (const plot of drawn) plot.draw();
}

/** Back and forward lead to where one was on a page, also when it is filled later. */
function toOldPlace() {
  if (history.state?.y !== undefined) scrollTo(0, history.state.y);
}

let shownView = null;
let searchNext = false;

function render() {
  const state = stateNow();
  const first = Object.keys(VIEWS)[0];
  const build = VIEWS[state.view]?.[1] || INNER[state.view] || VIEWS[first][1];
  const current = INNER[state.view] ? "rollouts" : VIEWS[state.view] ? state.view : first;
  fill(menu, ...Object.entries(VIEWS).map(([name, [text]], i) => link(text, { view: name }, { "aria-current": name === current ? "page" : null, "aria-keyshortcuts": String(i + 1) })));
  menu.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  summary.textContent = headline();
  const active = document.activeElement?.id;
  const caret = document.activeElement?.selectionStart;
  forgetPlots();
  try {
    fill(main, build(state));
    main.classList.toggle("several", runs.length > 1);
  } catch (error) { // of a run whose files have another form
    fill(main, el("h1", { tabindex: -1 }, "This view cannot be shown"), note(String(error)));
  }
  const again = active && document.getElementById(active);
  if (again && again !== main) {
    again.focus();
    if (caret !== null && caret !== undefined && again.setSelectionRange) again.setSelectionRange(caret, caret);
  } else if (shownView !== null && (shownView !== state.view || state.view === "rollout")) {
    main.querySelector("h1")?.focus({ preventScroll: true });
    if (history.state?.y === undefined) scrollTo(0, 0);
  }
  toOldPlace();
  if (searchNext) main.querySelector("[data-search]")?.focus();
  searchNext = false;
  shownView = state.view;
  document.title = `${main.querySelector("h1")?.textContent || ""} - ${runs.map((run) => run.name).slice(0, 3).join(", ")}`;
}

const KEYS = [[`1 to ${Object.keys(VIEWS).length}`, "the views, in order"], ["/", "search"], ["j, k", "next and previous rollout; in the list, down and up"], ["g", "the group side by side"], ["u", "back up: to the rollout, to the list"], ["Enter", "open what is focused"], ["w", "what the words mean"], ["?", "this list"]];

function showDialog(title, ...content) {
  const dialog = el("dialog", { "aria-label": title, onclose: () => dialog.remove() }, el("h2", {}, title), content, el("button", { type: "button", onclick: () => dialog.close() }, "Close"));
  document.body.append(dialog);
  dialog.showModal();
}

function showKeys() {
  showDialog("Keys", table(["key", "what it does"], KEYS));
}

/** The search box of this view, or of the list that a rollout belongs to. */
function toSearch() {
  const box = main.querySelector("[data-search]");
  if (box) return box.focus();
  searchNext = true;
  go({ ...(stateNow().view === "rollout" ? stateNow() : {}), uid: undefined, view: "rollouts" });
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const named = Object.keys(VIEWS)[Number(event.key) - 1];
  if (named) go({ view: named });
  else if (event.key === "?") showKeys();
  else if (event.key === "w") showWords();
  else if (event.key === "/") toSearch();
  else if (["j", "k"].includes(event.key) && main.querySelector("[data-row]")) {
    const links = [...main.querySelectorAll("[data-row]")];
    const at = links.indexOf(document.activeElement) + (event.key === "j" ? 1 : -1);
    links[Math.min(Math.max(at, 0), links.length - 1)].focus();
  } else {
    const target = main.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (!target) return;
    target.click();
  }
  event.preventDefault();
}

frame();
showProblems();
render();
addEventListener("hashchange", () => { if (!quiet) render(); quiet = false; });
addEventListener("keydown", onKey);
history.scrollRestoration = "manual";
let scrolled = 0;
addEventListener("scroll", () => {
  clearTimeout(scrolled);
  const here = location.href;
  scrolled = setTimeout(() => { if (location.href === here) history.replaceState({ y: scrollY }, ""); }, 80);
}, { passive: true });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
if (store.served) {
  let last = 0;
  follow(() => {
    showProblems();
    if (store.complete || performance.now() - last > 1500) {
      last = performance.now();
      listState.query = ""; // what was found is not all, when more has been read
      if (!document.activeElement?.matches("input:not([id]), select")) render();
    }
  }).catch((error) => { about.problems.push(`the server: ${error.message}`); showProblems(); });
}
document.documentElement.dataset.ready = "1";
