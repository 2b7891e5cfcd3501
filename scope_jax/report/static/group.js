// The rollouts of one prompt side by side: what they answered, which rubrics each met.
"use strict";

const SIDES = 16;

function viewGroup(state) {
  const run = Number(state.run || 0);
  const row = rowNamed(state.uid, run);
  if (row < 0) return [el("h1", { tabindex: -1 }, "Group"), note(`There is no rollout ${state.uid} in this run.`)];
  const rows = groupOf(row);
  const body = el("div", {}, note("unpacking"));
  Promise.all(rows.slice(0, SIDES).map(record)).then((records) => {
    const pairs = rows.slice(0, SIDES).map((own, i) => [own, records[i]]).filter(([, one]) => one);
    fill(body, ...groupParts(state, pairs, (state.q || "").toLowerCase()));
  }).catch((error) => fill(body, note(`It cannot be shown: ${error.message}`)));
  return [
    el("h1", { tabindex: -1 }, `Group of ${state.uid}`),
    el("nav", { class: "travel", "aria-label": "group" }, link("‹ this rollout (u)", { ...state, view: "rollout" }, { "data-key": "u" }), el("span", {}, `${rows.length} rollouts of one prompt`)),
    body,
  ];
}

function groupParts(state, pairs, query) {
  const first = pairs[0]?.[1];
  if (!first) return [note("None of their conversations is in this file.")];
  const trace = isObject(first.trace) ? first.trace : first;
  const same = pairs.every(([, one]) => (one.trace || one).task === trace.task);
  return [
    same ? taskPart(first, trace, query) : said(list(first.messages)[0]?.content, { query, kind: "user" }),
    same && trace.judge ? groupRubrics(pairs, trace, query) : null,
    el("div", { class: "sides many", tabindex: 0, role: "region", "aria-label": "rollouts side by side" }, pairs.map(([row, one]) => side(state, row, one, query))),
  ];
}

/** Rubrics down, rollouts across. */
function groupRubrics(pairs, trace, query) {
  return table(["rubric", ...pairs.map(([row]) => String(of(row, "sample")))], list(trace.rubrics).map((rubric, i) => [visible(rubric, query), ...pairs.map(([, one]) => verdict(list(one.trace?.judge)[i]))]), { caption: "Verdicts by rollout", classes: "grades" });
}

function side(state, row, one, query) {
  const trace = isObject(one.trace) ? one.trace : one;
  const messages = list(one.messages).filter(isObject);
  const trained = new Map(list(one.trained).filter(isObject).map((turn) => [turn.message, turn]));
  const title = of(row, "stage") === "evaluation" ? of(row, "uid").split("/").slice(2).join(" ") : String(of(row, "sample"));
  return el("div", { class: "side" },
    el("h2", {}, link(title, { ...state, view: "rollout", uid: of(row, "uid") })), facts(row),
    list(trace.why).length ? el("details", {}, el("summary", {}, "How the reward came about"), el("ol", { class: "why" }, trace.why.map((line) => el("li", {}, visible(String(line), query))))) : null,
    trace.task && of(row, "stage") !== "solver" && of(row, "stage") !== "evaluation" ? said(trace.task, { query }) : null,
    messages.slice(1).map((m, i) => message(m, { query, turn: trained.get(i + 1) })));
}
