// Can the judge be trusted? Its score against the truth, and where they differ most.
"use strict";

const JUDGED = [
  ...["", "_met", "_absent", "_wrong_value", "_two_values", "_value_elsewhere"].map((kind) => `truth/grades_right${kind}`),
  "truth/reward_correlation", "truth/rubrics_true", "truth/score", "reward/rubric_score", "judge/unparseable", "judge/retried",
];

function viewJudge() {
  const parts = [el("h1", { tabindex: -1 }, "Can the judge be trusted?")];
  parts.push(perRun((run) => [judgeSummary(run), judgeTable(run), calibration(run), whose(run), disagreements(run)]));
  return parts;
}

function judgeSummary(run) {
  const right = mean(curve(run, "solver", "truth/grades_right") || []);
  const told = mean(curve(run, "solver", "truth/reward_correlation") || []);
  const alarm = runs[run].alarms.solver;
  const lines = [];
  if (right !== null) lines.push(`Of the judge's grades in Solver training, ${share(right, 1)} are right.`);
  if (told !== null) lines.push(`Within a group, reward and true score have a correlation of ${number(told)}: ${told > 0.7 ? "better answers get better rewards" : told > 0.3 ? "rewards are a noisy guide" : "rewards say little about the truth"}.`);
  if (alarm) lines.push(`Alarm for reward hacking: ${alarm}`);
  if (right === null) lines.push("What is true is not known in this run, so the judge can only be read: below are the rollouts on which its verdicts differ most. It can be measured in the small world.");
  return el("ul", { class: "verdicts" }, lines.map((line) => el("li", {}, line)));
}

function judgeTable(run) {
  const names = (stage) => JUDGED.filter((name) => known(curve(run, stage, name) || []).length);
  return ["solver", "challenger"].map((stage) => {
    const columns = runs[run].curves[stage];
    const iterations = [...new Set(columns.iteration)];
    if (!names(stage).length) return null;
    return section(`Judge in ${STAGE_NAMES[stage]} training`, table(["mean over steps", ...iterations.map((i) => `iteration ${i}`)],
      names(stage).map((name) => [metricCell(stage, name),
        ...iterations.map((i) => number(mean(columns.metrics[name].filter((_, at) => columns.iteration[at] === i))))]), { caption: `Judge, ${stage}` }));
  });
}

/** Mean true score of answers by the score that the judge gave them. */
function calibration(run) {
  const own = rowsOf(run, "solver").filter((row) => of(row, "judge") !== null && of(row, "truth") !== null);
  if (!own.length) return null;
  const rows = [...grouped(own, judgedFifth)].sort((a, b) => a[0] - b[0]).map(([place, members]) => [
    fifthText(place), number(members.length),
    number(mean(members.map((row) => of(row, "judge")))), number(mean(members.map((row) => of(row, "truth")))),
    link(`${number(members.filter((row) => of(row, "gap") > APART).length)} rollouts`, { view: "rollouts", run, stage: "solver", sort: "gap", apart: place }),
  ]);
  return section("What its score means", note("A judge that is right has the same mean as the truth in every line."),
    table(["judge's score", "answers", "judge, mean", "truth, mean", `off by more than ${APART}`], rows, { caption: "Judge's score against the truth" }));
}

/** A wrong score has two causes: a grade that is wrong, or a rubric that is. */
function whose(run) {
  const own = rowsOf(run, "solver").filter((row) => of(row, "gap") > APART && of(row, "truth") !== null);
  if (!own.length) return null;
  const has = (row, flaw) => of(row, "flaws")?.includes(flaw);
  const causes = [["wrong grade", "the judge graded a rubric wrongly"], ["wrong rubric", "a rubric is false, or not what the task wants"], ["unanswerable", "nothing in the encyclopedia answers the task"]];
  const rows = causes.map(([flaw, text]) => [el("span", {}, flaw, el("span", { class: "soft" }, `: ${text}`)),
    link(`${number(own.filter((row) => has(row, flaw)).length)} rollouts`, { view: "rollouts", run, stage: "solver", sort: "gap", flaw })]);
  rows.push(["none of these: what was graded was cut, or weighted by its length", number(own.filter((row) => !causes.some(([flaw]) => has(row, flaw))).length)]);
  return section(`Why ${number(own.length)} scores are off by more than ${APART}`, note("A rollout can have several causes. The links show all rollouts with the flaw, largest disagreement first."),
    table(["cause", "rollouts"], rows, { caption: "Causes of wrong scores" }));
}

function disagreements(run) {
  const own = store.rows.map((_, row) => row).filter((row) => of(row, "run") === run && of(row, "gap") > 0 && of(row, "stage") !== "evaluation");
  own.sort((a, b) => of(b, "gap") - of(a, "gap"));
  if (!own.length) return null;
  return section("Where judge and truth differ most", table(["rollout", "judge", "truth", "differ by", { value: "because of", class: "left" }, { value: "task", class: "left" }],
    own.slice(0, 12).map((row) => [link(of(row, "uid"), { view: "rollout", run, uid: of(row, "uid"), sort: "gap" }), number(of(row, "judge")), number(of(row, "truth")), number(of(row, "gap")),
      { value: (of(row, "flaws") || []).join(", ") || "–", class: "word" }, { value: visible(of(row, "task")), class: "text" }]), { caption: "Largest disagreements" }),
    el("p", {}, link("All, by disagreement", { view: "rollouts", run, sort: "gap" })));
}
