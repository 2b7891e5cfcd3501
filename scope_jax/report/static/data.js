// What the page is about: the embedded JSON, and rollouts that are unpacked when needed.
"use strict";

const about = JSON.parse(document.getElementById("data").textContent);
const runs = about.runs;
const STAGES = ["challenger", "tasks", "solver", "evaluation"];
const STAGE_NAMES = { challenger: "Challenger", tasks: "Task creation", solver: "Solver", evaluation: "Evaluation" };
const MODES = ["sampled", "greedy"];

const store = {
  rows: about.rollouts.rows || [],
  at: Object.fromEntries(about.rollouts.fields.map((name, i) => [name, i])),
  parts: about.rollouts.parts || [],
  served: about.rollouts.served !== undefined,
  complete: about.rollouts.served === undefined,
  unpacked: new Map(),
  texts: new Map(),
};

/** A value of a row, by its name. */
function of(row, name) {
  return store.rows[row][store.at[name]];
}

const places = new Map(); // row -> [part, place in it]
store.parts.forEach((rows, part) => rows.forEach((row, place) => places.set(row, [part, place])));

function isHeld(row) {
  return store.served || places.has(row);
}

async function unpack(part) {
  if (store.unpacked.has(part)) return store.unpacked.get(part);
  const packed = atob(document.getElementById(`part-${part}`).textContent);
  const bytes = Uint8Array.from(packed, (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const records = JSON.parse(await new Response(stream).text());
  if (store.unpacked.size > 30) store.unpacked.delete(store.unpacked.keys().next().value);
  store.unpacked.set(part, records);
  return records;
}

/** The stored record of a row; null where it is not in the file. */
async function record(row) {
  if (store.served) return asked(`rollout?row=${row}`);
  if (!places.has(row)) return null;
  const [part, place] = places.get(row);
  return (await unpack(part))[place];
}

async function asked(path) {
  const answer = await fetch(`${path}&of=${about.rollouts.served}`);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function strings(value, found) {
  if (typeof value === "string") found.push(value);
  else if (Array.isArray(value)) for (const item of value) strings(item, found);
  else if (value && typeof value === "object") for (const item of Object.values(value)) strings(item, found);
  return found;
}

/** Rows whose record has the text somewhere; tells `progress` how far it is. */
async function search(query, progress, signal) {
  if (store.served) return new Set(await asked(`search?q=${encodeURIComponent(query)}`));
  const found = new Set();
  for (let part = 0; part < store.parts.length; part++) {
    if (signal.aborted) return found;
    if (!store.texts.has(part)) {
      const texts = (await unpack(part)).map((one) => strings(one, []).join("\n").toLowerCase());
      store.texts.set(part, texts);
      progress((part + 1) / store.parts.length);
    }
    store.texts.get(part).forEach((text, place) => {
      if (text.includes(query)) found.add(store.parts[part][place]);
    });
  }
  return found;
}

/** Asks a server for the rows that it has read since; `changed` after each answer. */
async function follow(changed) {
  while (!store.complete) {
    const answer = await asked(`rows?from=${store.rows.length}`);
    store.rows.push(...answer.rows);
    store.complete = answer.complete;
    store.problems = answer.problems;
    changed();
    if (!store.complete && !answer.rows.length) await new Promise((done) => setTimeout(done, 200));
  }
}

/** The values of a metric over a stage's records of a run, or null. */
function curve(run, stage, name) {
  return runs[run].curves[stage].metrics[name] || null;
}

/** Rows of a run and stage. */
function rowsOf(run, stage) {
  const found = [];
  for (let row = 0; row < store.rows.length; row++) {
    if (of(row, "run") === run && of(row, "stage") === stage) found.push(row);
  }
  return found;
}

/** What a rollout is compared with: those of its prompt, or of its held-out task. */
function groupOf(row) {
  const names = of(row, "stage") === "evaluation" ? ["run", "stage", "group"] : ["run", "iteration", "stage", "step", "group"];
  const own = names.map((name) => of(row, name));
  const kind = of(row, "uid").split("/")[1];
  const found = [];
  for (let other = 0; other < store.rows.length; other++) {
    if (!names.every((name, i) => of(other, name) === own[i])) continue;
    if (own[1] === "evaluation" && of(other, "uid").split("/")[1] !== kind) continue;
    found.push(other);
  }
  return found;
}

function rowNamed(uid, run) {
  for (let row = 0; row < store.rows.length; row++) {
    if (of(row, "uid") === uid && of(row, "run") === run) return row;
  }
  return -1;
}
