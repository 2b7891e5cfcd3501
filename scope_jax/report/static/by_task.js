// Which held-out tasks went better or worse after training, and where to read them.
"use strict";

/** Of the first and last Solver's answers to the same tasks: what rose and what fell. */
function byTaskSection(run) {
  const own = rowsOf(run, "evaluation").filter((row) => of(row, "truth") !== null);
  const parts = MODES.map((mode) => {
    const answers = own.filter((row) => of(row, "sample") === mode);
    const last = Math.max(0, ...answers.map((row) => of(row, "iteration")));
    if (!last) return null;
    const before = new Map(answers.filter((row) => of(row, "iteration") === 0).map((row) => [of(row, "uid").split("/")[1] + of(row, "group"), row]));
    const pairs = answers.filter((row) => of(row, "iteration") === last).map((row) => [before.get(of(row, "uid").split("/")[1] + of(row, "group")), row])
      .filter(([old]) => old !== undefined).map(([old, row]) => ({ old, row, gain: Number((of(row, "truth") - of(old, "truth")).toFixed(6)) }));
    if (!pairs.length) return null;
    const fell = pairs.filter((pair) => pair.gain < 0).sort((a, b) => a.gain - b.gain);
    const rose = pairs.filter((pair) => pair.gain > 0).length;
    const shown = fell.slice(0, 8).map(({ old, row, gain }) => [link(of(row, "uid"), { view: "group", run, uid: of(row, "uid") }), number(of(old, "truth")), number(of(row, "truth")), number(gain), { value: visible(of(row, "task")), class: "text" }]);
    return [
      el("h3", {}, mode === "greedy" ? "Answered greedily" : "Sampled as in training"),
      el("p", {}, `Of ${number(pairs.length)} tasks, ${number(rose)} went better than with the base model, ${number(fell.length)} worse, ${number(pairs.length - rose - fell.length)} the same.`),
      shown.length ? [note(`The largest losses${fell.length > shown.length ? `, ${shown.length} of ${number(fell.length)}` : ""}; each leads to all Solvers' answers side by side.`),
        table(["task", "base", `iteration ${last}`, "change", { value: "text", class: "left" }], shown, { caption: `Largest losses, ${mode}` })] : null,
    ];
  }).filter(Boolean);
  return parts.length ? section(runs.length > 1 ? `Task by task (${runs[run].folder})` : "Task by task", parts) : null;
}
