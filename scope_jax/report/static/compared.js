// Models on benchmarks: scores with intervals, gains, and where to read the answers.
"use strict";

/** Values of a metric for every model, with what its error is; "x_n" and "x_stderr" belong to "x". */
function scoreNames(parts) {
  const names = [...new Set(Object.values(parts).flatMap((one) => Object.keys(one)))];
  return names.filter((name) => !(/_(stderr|n)$/.test(name) && names.includes(name.replace(/_(stderr|n)$/, ""))));
}

function scoresOf(parts, caption, linked) {
  const models = Object.keys(parts);
  const known_ = new Set(store.rows.map((_, row) => of(row, "type")));
  const rows = scoreNames(parts).map((name) => [name.replaceAll("_", " "), number(parts[models[0]][`${name}_n`] ?? null), ...models.map((model) => {
    const error = parts[model][`${name}_stderr`];
    const shown = plusMinus(parts[model][name], error === undefined ? null : Z * error);
    return linked && known_.has(name) ? link(shown, { view: "rollouts", type: name, sample: model }) : shown;
  })]);
  return table(["source, ± 95% over questions", "questions", ...models], rows, { caption });
}

function viewCompared() {
  const { models, gains, baseline, judge, remarks } = about.compared;
  return [
    el("h1", { tabindex: -1 }, "Scores"),
    note(`All answers were judged by ${judge}. A score leads to its answers.`),
    scoresOf(models, "Scores", true),
    Object.keys(gains).length ? section(`Gains over ${baseline}`, note("Question by question, so that how hard a question is does not count."),
      el("ul", { class: "verdicts" }, Object.entries(gains).map(([model, one]) => gainSentence(model, one)).filter(Boolean)),
      scoresOf(gains, "Gains", false)) : null,
    Object.keys(models).length > 1 ? section("Where they differ", el("p", {}, link("Answers to the questions on which scores lie furthest apart", { view: "rollouts", sort: "gap" }))) : null,
    remarks.length ? section("What to know besides", el("ul", {}, remarks.map((line) => el("li", {}, visible(line))))) : null,
  ];
}

function gainSentence(model, one) {
  const name = one.avg === undefined ? Object.keys(one)[0] : "avg";
  const error = one[`${name}_stderr`];
  if (!Number.isFinite(one[name])) return null;
  const half_ = Number.isFinite(error) ? Z * error : null;
  const sure = half_ === null ? "" : Math.abs(one[name]) <= half_ ? "no difference that chance would not explain" : one[name] > 0 ? "better than chance explains" : "worse than chance explains";
  return el("li", {}, el("strong", {}, `${model}: `), `${one[name] >= 0 ? "+" : "−"}${plusMinus(Math.abs(one[name]), half_)} (${name})${sure ? `: ${sure}` : ""}.`);
}
