// One rollout: the conversation, what was trained on, the rubrics, how the reward came about.
"use strict";

function viewRollout(state) {
  const run = Number(state.run || 0);
  const row = rowNamed(state.uid, run);
  if (row < 0) {
    return [el("h1", { tabindex: -1 }, "Rollout"), note(store.complete ? `There is no rollout ${state.uid} in this run.` : "Still reading the run: this rollout may come."), el("p", {}, link("All rollouts", { view: "rollouts" }))];
  }
  const body = el("div", { class: "rollout" }, note("unpacking"));
  record(row).then((one) => {
    if (one) fill(body, ...rolloutParts(row, one, (state.q || "").toLowerCase()));
    else fill(body, note("Its conversation is not in this file, which holds as many as fit: python scripts/report.py RUN --serve shows all."));
    toOldPlace();
  }).catch((error) => fill(body, note(`It cannot be shown: ${error.message}`)));
  return [el("h1", { tabindex: -1 }, `Rollout ${state.uid}`), travel(state, row), body];
}

/** Previous and next among the chosen rows, the group, and a way back. */
function travel(state, row) {
  const rows = chosenRows(state).filter(isHeld);
  const at = rows.indexOf(row);
  const to = (other) => ({ ...state, uid: of(other, "uid"), run: of(other, "run") });
  const step = (other, text, key) => (other === undefined ? el("span", { class: "soft" }, text) : link(text, to(other), { "data-key": key, "aria-keyshortcuts": key }));
  return el("nav", { class: "travel", "aria-label": "rollouts" },
    step(at > 0 ? rows[at - 1] : undefined, "‹ previous (k)", "k"), el("span", {}, at >= 0 ? `${number(at + 1)} of ${number(rows.length)}` : "not among the filtered"),
    step(at >= 0 ? rows[at + 1] : rows[0], "next (j) ›", "j"),
    link("group side by side (g)", { ...state, view: "group" }, { "data-key": "g", "aria-keyshortcuts": "g" }),
    link("list (u)", { ...state, view: "rollouts", uid: undefined, run: runs.length > 1 ? state.run : undefined }, { "data-key": "u", "aria-keyshortcuts": "u" }),
    of(row, "source") ? link("its task's creation", { view: "rollout", run: of(row, "run"), uid: of(row, "source") }) : null,
    of(row, "source") || of(row, "outcome") === "kept" ? link("all of this task", { view: "rollouts", run: of(row, "run"), source: of(row, "source") || of(row, "uid") }) : null);
}

function facts(row) {
  const shown = [[about.compared ? "score" : "reward", "reward"], ["advantage", "advantage"], ["judge's score", "judge"], ["true score", "truth"], [about.compared ? "spread over models" : "disagreement", "gap"], ["searches", "searches"], ["tokens", "tokens"]];
  const found = shown.filter(([, name]) => of(row, name) !== null).map(([text, name]) => el("div", {}, el("dt", {}, text), el("dd", { style: name === "advantage" ? { background: shade(of(row, name)) } : {} }, number(of(row, name)))));
  if (of(row, "flaws")?.length) found.push(el("div", {}, el("dt", {}, "flaws"), el("dd", { class: "no" }, of(row, "flaws").join(", "))));
  return el("dl", { class: "facts" }, el("div", {}, el("dt", {}, "outcome"), el("dd", {}, of(row, "outcome").replaceAll("_", " "))), found, of(row, "type") ? el("div", {}, el("dt", {}, "type"), el("dd", {}, of(row, "type").replaceAll("_", " "))) : null);
}

function rolloutParts(row, one, query) {
  const trace = isObject(one.trace) ? one.trace : one;
  return [
    facts(row),
    el("div", { class: "columns" },
      el("div", {}, taskPart(one, trace, query), conversationPart(one, trace, query)),
      el("div", {}, reasons(trace, query), rubricsPart(trace, query), gatesPart(trace, query), truthPart(trace, one, query), errorsPart(trace), storedPart(one))),
  ];
}

function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

function list(value) {
  return Array.isArray(value) ? value : [];
}

function taskPart(one, trace, query) {
  return trace.task ? el("section", {}, el("h2", {}, "Task"), said(trace.task, { query })) : null;
}

function reasons(trace, query) {
  const title = trace.outcome ? "Why it was kept or dropped" : about.compared ? "How the score came about" : "How the reward came about";
  return list(trace.why).length ? el("section", {}, el("h2", {}, title), el("ol", { class: "why" }, trace.why.map((line) => el("li", {}, visible(String(line), query))))) : null;
}

/** The messages; system text, searches' results and documents are folded. */
function conversationPart(one, trace, query) {
  const messages = list(one.messages).filter(isObject);
  const trained = new Map(list(one.trained).filter(isObject).map((turn) => [turn.message, turn]));
  const spoken = messages.map((m, i) => (m.role === "assistant" ? i : -1)).filter((i) => i >= 0);
  const notes = list(trace.conversation);
  const told = new Map(spoken.slice(Math.max(spoken.length - notes.length, 0)).map((index, i) => [index, notes[i]]));
  if (!messages.length) return note("It has no conversation.");
  const whole = one.trained === undefined ? null : trained;
  return el("section", {}, el("h2", {}, "Conversation"),
    one.trained !== undefined ? el("p", { class: "key" }, el("span", { class: "trained", style: { background: shade(1) } }, "trained on, made more likely"), " ", el("span", { class: "trained", style: { background: shade(-1) } }, "made less likely"), " ", el("span", { class: "trained", style: { background: shade(0) } }, "advantage 0")) : null,
    messages.map((m, i) => message(m, { query, turn: whole?.get(i), note: told.get(i), first: i === 0 })));
}

function message(m, { query = "", turn = null, note: read = null, first = false }) {
  const role = String(m.role ?? "");
  let text = typeof m.content === "string" ? m.content : m.content ? JSON.stringify(m.content) : "";
  for (const call of list(m.tool_calls)) text += `${text ? "\n" : ""}${JSON.stringify(call)}`;
  const spans = turn && turn.trained ? [{ from: turn.start || 0, to: turn.end ?? text.length, advantage: turn.advantage }] : null;
  const about_ = [role];
  if (read) about_.push(`turn ${read.turn}: ${read.what}`);
  if (turn) about_.push(turn.trained === turn.tokens ? `${turn.tokens} tokens trained on` : `${turn.trained} of ${turn.tokens} tokens trained on`);
  const kind = ["system", "user", "assistant", "tool"].includes(role) ? role : "";
  const results = /^\s*<(information|tool_response)>/.test(text) || role === "tool";
  const shown = said(text, { query, kind, spans });
  const heading = about_.join(" · ");
  if (role === "assistant") return el("div", { class: "message" }, el("div", { class: "role" }, heading), shown);
  const open = !results && role !== "system" && text.length < 1500 || Boolean(query && text.toLowerCase().includes(query));
  const what = results ? "what the search found" : first ? "prompt" : role;
  const beginning = text.trim().slice(0, 90).replace(/\s+/g, " ");
  return el("details", { class: "message", open }, el("summary", {}, el("span", { class: "role" }, `${what} `), el("span", { class: "beginning" }, visible(beginning))), shown);
}

/** (who, answer, grades) of every answer that was graded. */
function graded(trace) {
  if (list(trace.judge).length) return [["answer", trace.answer, trace.judge]];
  return list(trace.attempts).filter(isObject).map((attempt, i) => [`attempt ${i + 1}`, attempt.answer, list(attempt.judge)]);
}

function verdict(grade) {
  if (!isObject(grade)) return "–";
  if (grade.label !== undefined) return { value: grade.label || "unreadable", class: grade.label ? { met: "yes", 1: "yes", 0: "no", "not met": "no" }[grade.label] ?? "" : "unread" };
  if (grade.score === null || grade.score === undefined) return { value: "unreadable", class: "unread" };
  const raised = grade.unbiased !== undefined && grade.unbiased !== grade.score;
  const kind = raised ? "unread" : grade.score === 1 ? "yes" : grade.score === 0 ? "no" : "";
  const mark = grade.score === 1 ? "✓ 1" : grade.score === 0 ? "✗ 0" : number(grade.score);
  return { value: raised ? `${mark}, raised from ${number(grade.unbiased)}` : mark, class: kind };
}

function rubricsPart(trace, query) {
  const rubrics = list(trace.rubrics);
  if (!rubrics.length) return null;
  const columns = graded(trace);
  const words = columns.flatMap(([who, , grades]) => grades.filter(isObject).map((grade, i) => [`${who}, rubric ${i + 1}`, grade]));
  return el("section", {}, el("h2", {}, "Rubrics"),
    table(["rubric", ...columns.map(([who]) => who)], rubrics.map((rubric, i) => [visible(`${i + 1}. ${rubric}`, query), ...columns.map(([, , grades]) => verdict(grades[i]))]), { caption: "Verdicts of the judge", classes: "grades" }),
    columns.map(([who, answer]) => el("details", { open: columns.length === 1 }, el("summary", {}, `${who}: ${answer ? "" : "no valid answer"}`, el("span", { class: "beginning" }, visible(String(answer || "").slice(0, 80)))), said(answer || "(no valid answer)", { query }))),
    el("details", { open: Boolean(query) && words.some(([, grade]) => String(grade.raw).toLowerCase().includes(query)) }, el("summary", {}, "The judge's own words"),
      words.map(([who, grade]) => [grade.asked_again_after ? [el("div", { class: "role" }, `${who}, unreadable, asked again`), said(grade.asked_again_after, { query })] : null, el("div", { class: "role" }, who), said(grade.raw, { query })]),
      trace.rubrics_raw ? [el("div", { class: "role" }, "as it wrote the rubrics"), said(trace.rubrics_raw, { query })] : null));
}

function gatesPart(trace, query) {
  const gates = isObject(trace.gates) ? trace.gates : {};
  const words = isObject(trace.gates_raw) ? trace.gates_raw : {};
  const names = [...new Set([...Object.keys(gates), ...Object.keys(words)])];
  if (!names.length) return null;
  return el("section", {}, el("h2", {}, "Gates"), names.map((name) => el("details", {}, el("summary", {}, `${name.replaceAll("_", " ")}: `, el("span", { class: gates[name] > 0 ? "yes" : "no" }, gates[name] === null || gates[name] === undefined ? "unreadable" : number(gates[name]))), said(words[name], { query }))));
}

function truthPart(trace, one, query) {
  const wanted = list(one.wanted), why = list(trace.truth?.why);
  if (!wanted.length && !why.length) return null;
  return el("section", {}, el("h2", {}, wanted.length ? "What is wanted" : "In truth"), wanted.length ? null : note("Known in the small world; it trains nothing."),
    el("ul", {}, [...wanted, ...why].map((line) => el("li", { class: /so its grade is wrong|false|impossible|vague/.test(line) ? "no" : "" }, visible(String(line), query)))));
}

function errorsPart(trace) {
  return list(trace.errors).length ? el("section", {}, el("h2", {}, "Errors"), el("ul", {}, trace.errors.map((error) => el("li", { class: "no" }, visible(String(error)))))) : null;
}

function storedPart(one) {
  const box = el("details", {}, el("summary", {}, "Stored record"));
  box.addEventListener("toggle", () => {
    if (box.open && box.children.length === 1) box.append(said(JSON.stringify({ ...one, messages: undefined }, null, 2)));
  });
  return box;
}
