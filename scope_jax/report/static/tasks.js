// Which tasks were bad and why: what became of each, how hard they were.
"use strict";

const OUTCOMES = {
  kept: "trained on", bad_format: "conversation or task of a wrong format", too_long: "too long for the Solver's prompt",
  gates_failed: "the judge found it ambiguous, or not about its document", no_rubrics: "the judge wrote no usable rubrics", checks_failed: "its rubrics lack evidence, or the judge could not answer it",
  too_hard: "the previous Solver met too few of its rubrics", too_easy: "the previous Solver met too many of its rubrics",
  another_of_its_prompt: "fine, but enough tasks of its prompt were kept",
};

function viewTasks() {
  const parts = [el("h1", { tabindex: -1 }, "Tasks")];
  parts.push(perRun((run) => {
    const own = rowsOf(run, "tasks");
    const created = own.length ? [outcomeSection(run, own), badSection(run, own), difficultySection(run, own)] : note("No task was created in this run yet, or its tasks come from a file.");
    return [created, truthSection(run), trainingHistograms(run)];
  }));
  return parts;
}

/** Kept and dropped, per iteration; each number leads to the tasks themselves. */
function outcomeSection(run, own) {
  const iterations = [...grouped(own, (row) => of(row, "iteration"))];
  const names = [...new Set([...Object.keys(OUTCOMES), ...own.map((row) => of(row, "outcome"))])].filter((name) => own.some((row) => of(row, "outcome") === name));
  const rows = names.map((name) => [
    el("span", {}, el("strong", {}, name.replaceAll("_", " ")), OUTCOMES[name] ? el("span", { class: "soft" }, `: ${OUTCOMES[name]}`) : ""),
    ...iterations.map(([iteration, members]) => {
      const count = members.filter((row) => of(row, "outcome") === name).length;
      return count ? el("span", { class: "bar-cell" }, link(`${number(count)} (${share(count, members.length)})`, { view: "rollouts", run, stage: "tasks", iteration, outcome: name }),
        el("span", { class: `bar ${name === "kept" ? "good" : ""}`, style: { width: `${(100 * count) / members.length}px` }, "aria-hidden": "true" })) : "0";
    }),
  ]);
  rows.push(["written in all", ...iterations.map(([, members]) => number(members.length))]);
  return section("What became of the tasks that were written",
    table(["outcome", ...iterations.map(([iteration]) => `iteration ${iteration}`)], rows, { caption: "Tasks by outcome" }));
}

/** Kept tasks that should not have been: what the small world knows against them. */
function badSection(run, own) {
  const kept = own.filter((row) => of(row, "outcome") === "kept");
  const flaws = [...new Set(kept.flatMap((row) => of(row, "flaws") || []))].sort();
  if (!flaws.length) return null;
  const iterations = [...grouped(kept, (row) => of(row, "iteration"))];
  return section("What is wrong with kept tasks", note("Known in the small world; the judge let them pass, and the Solver is trained on them."),
    table(["flaw", ...iterations.map(([iteration]) => `iteration ${iteration}`)], flaws.map((flaw) => [flaw, ...iterations.map(([iteration, members]) => {
      const count = members.filter((row) => of(row, "flaws")?.includes(flaw)).length;
      return count ? link(`${number(count)} (${share(count, members.length)})`, { view: "rollouts", run, stage: "tasks", iteration, outcome: "kept", flaw }) : "0";
    })]), { caption: "Flaws of kept tasks" }));
}

function bins(low, high, count) {
  return Array.from({ length: count }, (_, i) => number(Number((low + ((high - low) * (i + 0.5)) / count).toFixed(2))));
}

function difficultySection(run, own) {
  const low = Number(runs[run].config["tasks.low"] ?? "0.2");
  const high = Number(runs[run].config["tasks.high"] ?? "0.8");
  const plots = [...grouped(own, (row) => of(row, "iteration"))].map(([iteration, members]) => {
    const all = members.filter((row) => of(row, "judge") !== null);
    const kept = all.filter((row) => of(row, "outcome") === "kept");
    const value = (row) => of(row, "judge");
    return barPlot({ title: `Iteration ${iteration}: the previous Solver's mean score`, labels: bins(0, 1, 10), xName: "mean score of the task's attempts",
      marks: [{ x: low * 10 - 0.5 }, { x: high * 10 - 0.5 }],
      series: [{ name: "all that were attempted", colour: 7, counts: histogram(all.map(value), 0, 1, 10) }, { name: "kept", colour: 2, counts: histogram(kept.map(value), 0, 1, 10) }] });
  });
  return section("How hard they were", note(`Tasks are kept from ${low} to ${high} (dashed): where the Solver always, or never, succeeds there is nothing to learn.`), el("div", { class: "plots" }, plots));
}

/** What the small world knows of the tasks: its mean over each iteration. */
function truthSection(run) {
  const columns = runs[run].curves.tasks;
  const names = Object.keys(columns.metrics).filter((name) => name.startsWith("truth/"));
  if (!names.length) return null;
  const iterations = [...new Set(columns.iteration)];
  return section("What is true of them", note("In the small world the facts are known. A task is answerable if each of its blanks has an answer in the encyclopedia."),
    table(["metric, mean over batches", ...iterations.map((i) => `iteration ${i}`)],
      names.map((name) => [metricCell("tasks", name), ...iterations.map((i) => number(mean(columns.metrics[name].filter((_, at) => columns.iteration[at] === i))))]), { caption: "Truth of tasks" }));
}

/** Scores at the beginning and at the end of each training stage. */
function trainingHistograms(run) {
  const plots = [];
  for (const stage of ["challenger", "solver"]) {
    for (const [iteration, members] of grouped(rowsOf(run, stage), (row) => of(row, "iteration"))) {
      const steps = [...new Set(members.map((row) => of(row, "step")))].sort((a, b) => a - b);
      const quarter = Math.max(1, Math.floor(steps.length / 4));
      const early = new Set(steps.slice(0, quarter)), late = new Set(steps.slice(-quarter));
      const values = (chosen) => members.filter((row) => chosen.has(of(row, "step"))).map((row) => of(row, "judge"));
      if (!known(values(early)).length && !known(values(late)).length) continue;
      plots.push(barPlot({ title: `${STAGE_NAMES[stage]}, iteration ${iteration}`, labels: bins(0, 1, 10), xName: stage === "solver" ? "share of rubrics met" : "the previous Solver's mean score on the task",
        series: [{ name: `first ${quarter} of ${steps.length} steps`, colour: 7, counts: histogram(values(early), 0, 1, 10) }, { name: `last ${quarter}`, colour: 0, counts: histogram(values(late), 0, 1, 10) }] }));
    }
  }
  return plots.length ? section("Difficulty in training, at its beginning and at its end", el("div", { class: "plots" }, plots)) : null;
}
