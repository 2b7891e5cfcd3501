// Models on benchmarks: scores with intervals, gains, and where to read the answers.
"use strict";

const BELONGS = /_(n|low|high)$/;

/** Metrics of the models; "x_n", "x_low" and "x_high" belong to "x". */
function scoreNames(parts) {
  const names = [...new Set(Object.values(parts).flatMap((one) => Object.keys(one)))];
  return names.filter((name) => !(BELONGS.test(name) && names.includes(name.replace(BELONGS, ""))));
}

function scoresOf(parts, caption, linked) {
  const models = Object.keys(parts);
  const known_ = new Set(store.rows.map((_, row) => of(row, "type")));
  const rows = scoreNames(parts).map((name) => [name.replaceAll("_", " "), number(parts[models[0]][`${name}_n`] ?? null), ...models.map((model) => {
    const shown = between(parts[model][name], parts[model][`${name}_low`], parts[model][`${name}_high`]);
    return linked && known_.has(name) ? link(shown, { view: "rollouts", type: name, sample: model }) : shown;
  })]);
  return table(["source, [95% interval]", "questions", ...models], rows, { caption });
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
  const [value, low, high] = [one[name], one[`${name}_low`], one[`${name}_high`]];
  if (!Number.isFinite(value)) return null;
  const sure = !Number.isFinite(low) ? "" : low > 0 ? "better than chance explains" : high < 0 ? "worse than chance explains" : "no difference that chance would not explain";
  return el("li", {}, el("strong", {}, `${model}: `), `${value >= 0 ? "+" : ""}${between(value, low, high)} (${name})${sure ? `: ${sure}` : ""}.`);
}
