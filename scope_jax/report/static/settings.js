// The configuration of each run, and what differs between several.
"use strict";

function viewSettings() {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.config)))];
  const body = el("div", {});
  const show = (query) => {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = names.filter((name) => words.every((word) => `${name} ${runs.map((run) => run.config[name]).join(" ")}`.toLowerCase().includes(word)));
    fill(body, table(["setting", ...runs.map((run) => run.folder)], chosen.map((name) => [name, ...runs.map((run) => ({ value: visible(run.config[name] ?? "–"), class: "text" }))]), { caption: "All settings", classes: "texts" }));
  };
  show("");
  return [
    el("h1", { tabindex: -1 }, "Configuration"),
    runs.length > 1 ? section("What differs", about.differences.length
      ? table(["setting", ...runs.map((run) => run.folder)], about.differences.map(({ name, values }) => [name, ...values.map((value) => ({ value: visible(value ?? "–"), class: "text" }))]), { caption: "Settings that differ", classes: "texts" })
      : note("Nothing: these runs have the same settings."),
      about.arms.length < runs.length ? note(`Runs that differ only in their seed are one arm: ${about.arms.map((arm) => arm.name).join("; ")}.`) : null) : null,
    section("All settings", el("label", { class: "field grow" }, el("span", {}, "Find a setting"), el("input", { type: "search", "data-search": true, oninput: (event) => show(event.target.value) })), body),
  ];
}
