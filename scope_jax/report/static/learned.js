// Did it learn? Scores on held-out tasks, how sure a gain is, the judge beside the truth.
"use strict";

const Z = 1.96;

function solverName(name) {
  return name === "base" ? "base" : name.replace("iter_", "iteration ");
}

/** Evaluations of one kind: [{run, names, scores, gains}]. */
function evaluations() {
  const found = [];
  runs.forEach((run, number) => run.evaluations.forEach((one) => found.push({ ...one, run: number })));
  return grouped(found, (one) => one.kind);
}

function viewLearned() {
  const parts = [el("h1", { tabindex: -1 }, "Did it learn?")];
  const kinds = evaluations();
  for (const [kind, found] of kinds) {
    parts.push(section(kinds.size > 1 ? `Held-out tasks: ${kind}` : "Held-out tasks",
      verdicts(found), scorePlots(found), scoreTable(found)));
  }
  if (!kinds.size) {
    parts.push(section("Held-out tasks", note("No evaluation has finished in this run, so there is no score on tasks that it was not trained on. "),
      note("In the small world ", el("code", {}, "python scripts/eval.py"), " makes one; with ", el("code", {}, "--evaluation.count"), " a run ends with it. Until then, rewards below say how well training goes, and not how much was learned: tasks change with the Challenger.")));
  }
  const during = duringTraining();
  if (during) parts.push(during);
  parts.push(trainingSection());
  runs.forEach((_, run) => parts.push(byTaskSection(run)));
  for (const [kind, found] of kinds) {
    for (const one of found) if (one.compared) parts.push(comparedSection(one, kind));
  }
  return parts;
}

/** One sentence per arm and mode: from where to where, and whether chance explains it. */
function verdicts(found) {
  const lines = [];
  for (const arm of about.arms) {
    const own = found.filter((one) => arm.runs.includes(one.run));
    if (!own.length) continue;
    const names = Object.keys(own[0].scores);
    const last = names[names.length - 1];
    for (const mode of MODES) {
      const metric = `eval/${mode}/true_score`;
      if (own[0].scores[names[0]][metric] === undefined || names.length < 2) continue;
      lines.push(el("li", {}, sentence(own, names[0], last, mode, metric, arm)));
    }
  }
  lines.push(...cautions(found).map((text) => el("li", { class: "soft" }, text)));
  return lines.length ? el("ul", { class: "verdicts" }, lines) : null;
}

/** What a reader should know before believing a sentence above. */
function cautions(found) {
  const told = [];
  const sizes = new Set(found.flatMap((one) => MODES.map((mode) => Object.values(one.scores)[0]?.[`eval/${mode}/true_score_n`])).filter(Boolean));
  if (sizes.size > 1) told.push(`These runs were scored on different numbers of tasks (${[...sizes].map(number).join(", ")}): their scores differ by that too.`);
  const single = about.arms.filter((arm) => found.filter((one) => arm.runs.includes(one.run)).length === 1);
  if (single.length) told.push(`${about.arms.length > 1 ? `Of ${single.map((arm) => arm.name).join(", ")} there is one seed` : "This is one seed"}: the intervals say how sure the score of these Solvers is, and not how far another seed would have come.`);
  return told;
}

/** Where an earlier Solver is better than the last one, or the last step was one down. */
function bestSoFar(own, mode, metric) {
  const names = Object.keys(own[0].scores);
  const values = names.map((name) => mean(own.map((one) => one.scores[name]?.[metric])));
  const last = values.length - 1;
  const best = values.reduce((at, value, i) => (value !== null && value > values[at] ? i : at), 0);
  if (best !== last) return ` The best is ${solverName(names[best])} with ${number(Number(values[best].toFixed(3)))}.`;
  const fell = values.map((value, i) => (i && value < values[i - 1] ? solverName(names[i]) : null)).filter(Boolean);
  return fell.length ? ` On the way it fell once: ${fell.join(", ")}.`.replace("once", fell.length > 1 ? "at times" : "once") : "";
}

function sentence(own, base, last, mode, metric, arm) {
  const before = mean(own.map((one) => one.scores[base]?.[metric]));
  const after = mean(own.map((one) => one.scores[last]?.[metric]));
  const each = own.map((one) => one.gains[last]?.[mode]?.[0] ?? one.scores[last]?.[metric] - one.scores[base]?.[metric]);
  let error = half(each);
  let how = `over ${own.length} seeds`;
  if (own.length === 1) {
    const one = own[0];
    const known = one.gains[last]?.[mode];
    const errors = [base, last].map((name) => one.scores[name][`${metric}_stderr`]);
    error = known ? known[1] : errors.every(Number.isFinite) ? Z * Math.hypot(...errors) : null;
    how = known ? `over ${number(one.scores[last][`${metric}_n`])} tasks, compared task by task` : "over tasks";
  }
  const gain = mean(each);
  const sure = error === null ? "unknown" : Math.abs(gain) <= error ? "none" : gain > 0 ? "gain" : "loss";
  const word = { unknown: "one value only", none: "no difference that chance would not explain", gain: "better than chance explains", loss: "worse than chance explains" }[sure];
  return [
    runs.length > 1 ? el("strong", {}, `${arm.name}: `) : null,
    `true score, ${mode === "greedy" ? "answered greedily" : "sampled as in training"}: ${solverName(base)} ${number(Number(before.toFixed(3)))}, ${solverName(last)} ${number(Number(after.toFixed(3)))}: `,
    el("strong", { class: sure === "gain" ? "yes" : sure === "loss" ? "no" : "" }, `${gain >= 0 ? "+" : "−"}${plusMinus(Math.abs(gain), error)}`),
    ` (95% interval ${how}): ${word}.${bestSoFar(own, mode, metric)}`,
  ];
}

function scorePlots(found) {
  const longest = found.map((one) => Object.keys(one.scores)).reduce((a, b) => (b.length > a.length ? b : a), []);
  const plots = MODES.map((mode) => {
    const metric = `eval/${mode}/true_score`;
    const series = [];
    about.arms.forEach((arm, index) => {
      const own = found.filter((one) => arm.runs.includes(one.run) && one.scores[longest[0]]?.[metric] !== undefined);
      if (!own.length) return;
      const x = [], y = [], low = [], high = [];
      longest.forEach((name, i) => {
        const values = own.map((one) => one.scores[name]?.[metric]);
        const middle = mean(values);
        if (middle === null) return;
        const error = own.length > 1 ? half(values) : Z * (own[0].scores[name][`${metric}_stderr`] ?? NaN);
        const aside = 0.05 * (index - (about.arms.length - 1) / 2);
        x.push(i + aside); y.push(middle);
        low.push(Number.isFinite(error) ? middle - error : null);
        high.push(Number.isFinite(error) ? middle + error : null);
      });
      series.push({ name: about.arms.length > 1 ? arm.name : "true score", colour: index, x, y, low, high });
    });
    if (!series.length) return null;
    return linePlot({ title: `True score, ${mode}, ± 95%`, series, bars: true, ticks: longest.map(solverName), xName: "Solver", height: 240 });
  });
  return el("div", { class: "plots" }, plots);
}

function scoreTable(found) {
  return el("details", { open: found.length === 1 }, el("summary", {}, "All scores"), found.map((one) => {
    const names = Object.keys(one.scores);
    const metrics = [...new Set(names.flatMap((name) => Object.keys(one.scores[name])))].filter((m) => !/_(stderr|n)$/.test(m));
    return table(["metric, ± 95% interval", "tasks", ...names.map(solverName)], metrics.map((metric) => [
      metric.replace("eval/", ""), number(one.scores[names[0]][`${metric}_n`]),
      ...names.map((name) => plusMinus(one.scores[name][metric], Z * one.scores[name][`${metric}_stderr`] || null)),
    ]), { caption: runs.length > 1 ? runs[one.run].folder : "Scores on held-out tasks" });
  }));
}

/** Scores that were measured between training steps. */
function duringTraining() {
  const plots = [];
  for (const mode of MODES) {
    const name = `eval/${mode}/true_score`;
    const series = armSeries("solver", name, 0);
    if (series.length) plots.push(linePlot({ title: `True score on held-out tasks while training, ${mode}`, series, marks: iterationMarks("solver"), height: 220 }));
  }
  return plots.length ? section("Held-out tasks while training", el("div", { class: "plots" }, plots)) : null;
}

/** Where the alarm for reward hacking went on, in red. */
function alarmMarks(run) {
  const on = curve(run, "solver", "alarm/reward_hacking") || [];
  return on.flatMap((value, i) => (value && !on[i - 1] ? [{ x: i + 1, bad: true }] : []));
}

/** Judge and truth of the same answers, while the Solver trains. */
function trainingSection() {
  const plots = [];
  about.arms.forEach((arm, index) => {
    const truth = ["truth/score", "reward/rubric_score_unbiased"].find((name) => arm.runs.some((run) => curve(run, "solver", name)));
    if (!arm.runs.some((run) => curve(run, "solver", "reward/rubric_score"))) return;
    const series = [armCurve(arm, "solver", "reward/rubric_score", { name: "the judge's score", colour: 0 })];
    if (truth) series.push(armCurve(arm, "solver", truth, { name: truth === "truth/score" ? "the true score" : "the unbiased score", colour: 1 }));
    const marks = [...iterationMarks("solver", arm.runs), ...arm.runs.flatMap(alarmMarks)];
    plots.push(linePlot({ title: about.arms.length > 1 ? arm.name : "Solver's training answers", series, marks, height: 220 }));
  });
  if (!plots.length) return null;
  const alarms = runs.map((run) => run.alarms.solver).filter(Boolean);
  return section("The judge's score beside the truth, in training",
    note("Tasks change from iteration to iteration, so a level line here may still be progress: see the held-out tasks."),
    el("div", { class: "plots" }, plots),
    [...new Set(alarms)].map((text) => note(`Alarm for reward hacking: ${text}`)));
}

function comparedSection(one, kind) {
  const { rule, task, wanted, before, after } = one.compared;
  const side = (who) => el("div", { class: "side" }, el("h3", {}, `${solverName(who.name)}: true score ${number(who.true_score)}`),
    el("h4", {}, "Answer"), said(who.answer || "(no valid answer)", { kind: "assistant" }),
    el("details", {}, el("summary", {}, "The whole conversation"), (who.messages || []).map((m) => message(m, {}))));
  return section(runs.length > 1 ? `One task, before and after (${runs[one.run].folder})` : "One task, before and after",
    note(`${rule}.`), said(task), el("p", {}, "Wanted:"), el("ul", {}, (wanted || []).map((fact) => el("li", {}, visible(fact)))),
    el("div", { class: "sides" }, side(before), side(after)));
}
