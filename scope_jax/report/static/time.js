// Where the time went: per stage and part, with tokens, engines and memory.
"use strict";

const PARTS = { "time/rollout": "rollouts and rewards", "time/update": "update", "time/batch": "writing and sifting" };

const REST = "starts, checkpoints, exports";
const IN_ORDER = ["rollouts", "rollouts and rewards", "judging", "writing and sifting", "update", "evaluation", REST];

function viewTime() {
  const parts = [el("h1", { tabindex: -1 }, "Where did the time go?")];
  parts.push(perRun((run) => [timeSection(run), workSection(run)]));
  return parts;
}

/** [{iteration, stage, parts: {name: seconds}, records}] in the order of the run. */
function stageTimes(run) {
  const found = [];
  const numbers = [...new Set(STAGES.flatMap((stage) => runs[run].curves[stage].iteration))].sort((a, b) => a - b);
  let last = runs[run].began;
  for (const iteration of numbers) {
    for (const stage of STAGES) {
      const columns = runs[run].curves[stage];
      const at = columns.iteration.map((own, i) => (own === iteration ? i : -1)).filter((i) => i >= 0);
      if (!at.length) continue;
      const parts = {};
      for (const name of Object.keys(columns.metrics)) {
        if (!name.startsWith("time/") || (name === "time/waited_for_writing")) continue;
        parts[PARTS[name] || name.replace("time/", "")] = at.reduce((sum, i) => sum + (columns.metrics[name][i] || 0), 0);
      }
      splitRewards(columns, at, parts);
      const end = Math.max(...known(at.map((i) => columns.unix[i])));
      const done = runs[run].stages[`iter_${iteration}/${stage}`]?.unix ?? end;
      const counted = Object.values(parts).reduce((a, b) => a + b, 0);
      if (Number.isFinite(last) && Number.isFinite(done)) parts[stage === "evaluation" ? "evaluation" : REST] = Math.max(done - last - counted, 0);
      last = done;
      found.push({ iteration, stage, parts, at });
    }
  }
  return found;
}

/** Takes the part that conversations waited for their reward out of the rollouts. */
function splitRewards(columns, at, parts) {
  const shares = columns.metrics["perf/reward_share"];
  const laps = columns.metrics["time/rollout"];
  if (!shares || !laps) return;
  const judged = at.reduce((sum, i) => sum + (laps[i] || 0) * (shares[i] || 0), 0);
  parts["judging"] = judged;
  parts["rollouts"] = parts[PARTS["time/rollout"]] - judged;
  delete parts[PARTS["time/rollout"]];
}

function timeSection(run) {
  const found = stageTimes(run);
  if (!found.length) return note("No time was logged yet.");
  const names = [...new Set([...IN_ORDER, ...found.flatMap((one) => Object.keys(one.parts))])].filter((name) => found.some((one) => one.parts[name]));
  const total = (one) => Object.values(one.parts).reduce((a, b) => a + b, 0);
  const all = found.reduce((sum, one) => sum + total(one), 0);
  const longest = Math.max(...found.map(total));
  const bar = (one) => el("span", { class: "stack", "aria-hidden": "true" }, names.map((name, i) => el("span", { style: { width: `${(220 * (one.parts[name] || 0)) / longest}px`, background: `var(--series-${i % 8})` } })));
  const rows = found.map((one) => [`${one.iteration} ${STAGE_NAMES[one.stage]}`, bar(one), ...names.map((name) => seconds(one.parts[name] ?? 0)), seconds(total(one)), share(total(one), all)]);
  rows.push(["all", "", ...names.map((name) => seconds(found.reduce((sum, one) => sum + (one.parts[name] || 0), 0))), seconds(all), "100%"]);
  return section("Stages", el("p", { class: "key" }, names.map((name, i) => el("span", {}, el("span", { class: "swatch", style: { background: `var(--series-${i % 8})` } }), ` ${name} `))),
    table(["stage", "parts", ...names, "in all", "share"], rows, { caption: "Seconds per stage and part" }));
}

function workSection(run) {
  const found = stageTimes(run);
  const stage = (one, name, how) => {
    const values = runs[run].curves[one.stage].metrics[name];
    return values ? how(one.at.map((i) => values[i])) : null;
  };
  const sum = (values) => known(values).reduce((a, b) => a + b, 0);
  const most = (values) => Math.max(...known(values), 0);
  const percent = (value) => (value === null ? "–" : share(value, 1));
  const columns = [
    ["tokens sampled (all turns)", (one) => number(stage(one, "rollout/tokens", sum))],
    ["tokens per second", (one) => number(stage(one, "perf/tokens_per_second", mean))],
    ["policy's engine busy", (one) => percent(stage(one, "perf/rollout_busy_share", mean))],
    ["judge's engine busy", (one) => percent(stage(one, "perf/judge_busy_share", mean))],
    ["previous Solver's busy", (one) => percent(stage(one, "perf/solver_busy_share", mean))],
    ["judge: prompt tokens", (one) => number(stage(one, "perf/judge_prefill_tokens", sum))],
    ["waited for writing", (one) => seconds(stage(one, "time/waited_for_writing", sum) ?? NaN)],
    ["programs compiled", (one) => number(stage(one, "perf/compilations", sum))],
    ["trainer's memory, most (MiB)", (one) => number(stage(one, "perf/memory_mib", (v) => Math.round(most(v))))],
    ["device memory, most (MiB)", (one) => number(stage(one, "perf/device_memory_mib", (v) => Math.round(most(v))))],
    ["goodput at its end", (one) => percent(stage(one, "perf/goodput", (values) => known(values).pop() ?? null))],
  ].filter(([, value]) => found.some((one) => value(one) !== "–"));
  if (!found.length || !columns.length) return null;
  return section("Tokens, engines, memory", note("Conversations are played and judged side by side: judging is the share of their time that they waited for a reward, from the judge or from attempts of the previous Solver. An engine's share says how full its slots were while it worked."),
    table(["stage", ...columns.map(([name]) => name)], found.map((one) => [`${one.iteration} ${STAGE_NAMES[one.stage]}`, ...columns.map(([, value]) => value(one))]), { caption: "Work per stage" }));
}
