// What the words and the metrics mean: shown beside tables, and as a list of its own.
"use strict";

const WORDS = [
  ["rollout", "one conversation that a model played to its end, with searches and answer"],
  ["group", "the rollouts of one prompt; GRPO compares them with each other only"],
  ["advantage", "a rollout's reward minus its group's mean, over their spread: above 0 its tokens become more likely"],
  ["Challenger", "the role that reads a document and writes a task"],
  ["Solver", "the role that sees only the task, searches and answers"],
  ["judge", "the frozen base model, which checks tasks, writes rubrics and grades answers"],
  ["gates", "the judge's checks of a task before it is attempted: is it clear, is it about its document"],
  ["rubric", "one thing that a good answer states; the share that is met is the judge's score"],
  ["difficulty", "the mean score of the previous Solver's attempts at a task"],
  ["true score", "the share of the facts a task asks for that the answer states; known in the small world only"],
  ["sampled, greedy", "answered at temperature 1 as in training, and with the most likely token each time"],
  ["tokens", "all that the model sampled, in all its turns. Fewer are trained on: turns cut off at their limit are not"],
  ["held-out tasks", "tasks about documents that no stage of the training has seen"],
  ["± 95%", "an interval that holds the true mean in 95 of 100 such measurements"],
  ["[low, high]", "the same of a benchmark, by drawing its questions again and again: it need not be symmetric"],
];

const MEANINGS = {
  "truth/score": "true score of the answers",
  "truth/grades_right": "grades that are right by what the answer says of the rubric",
  "truth/grades_right_met": "of those, where the answer states the rubric's fact",
  "truth/grades_right_absent": "of those, where the answer does not state the fact",
  "truth/grades_right_wrong_value": "of those, where the answer states another value",
  "truth/grades_right_two_values": "of those, where the answer states the value and another one",
  "truth/grades_right_value_elsewhere": "of those, where the answer gives the value to something else",
  "truth/reward_correlation": "correlation of reward and true score within groups (1: the reward teaches the truth)",
  "truth/rubrics_true": "rubrics that state a true fact which the task wants",
  "truth/rubrics_generic": "rubrics that state no fact, or several",
  "truth/answerable": "tasks whose blanks all have an answer in the encyclopedia",
  "truth/unanswerable": "answers to tasks that nothing in the encyclopedia answers",
  "truth/impossible": "blanks that ask for a fact that does not exist",
  "truth/vague": "blanks that do not say of what they ask",
  "truth/repeated": "blanks that ask the same again",
  "truth/blanks": "blanks per task",
  "truth/hops": "searches in a row that a blank needs",
  "truth/described": "tasks about something described and not named",
  "truth/off_document": "tasks that start at something their document is not about",
  "truth/difficulty": "true score of the previous Solver's attempts",
  "truth/answer_sentences": "sentences per answer",
  "reward/mean": "mean reward of the step's rollouts",
  "reward/groups_that_differ": "share of groups whose rewards differ: only these give a policy gradient",
  "reward/rubric_score": "the judge's score of the answers: rubrics met of all",
  "loss/kl": "mean KL penalty per trained token, towards the base model, before its coefficient",
  "loss/entropy": "mean entropy of the policy per trained token: a fast fall means that exploration ends",
  "loss/grad_norm": "norm of the gradient before it is clipped",
  "loss/clip_fraction": "share of trained tokens whose ratio is clipped",
  "loss/skipped": "updates skipped because a gradient was not finite",
  "agree/prob_error": "sampler against trainer, as a ratio of probabilities: close to 1",
  "rollout/finished_turns": "share of conversations that ended at the limit of turns",
  "rollout/finished_length": "share of conversations that ended at a limit of tokens",
  "tasks/kept": "tasks of a batch that are trained on",
  "tasks/too_easy": "dropped: the previous Solver's mean score is above the window",
  "tasks/too_hard": "dropped: the previous Solver's mean score is below the window",
  "tasks/bad_format": "dropped: no task could be read in the Challenger's conversation",
  "tasks/gates_failed": "dropped: the judge's gates",
  "judge/unparseable": "verdicts that could not be read",
  "judge/retried": "verdicts that were asked for again",
};

/** What a metric means; of tasks in creation, all that were written or the kept ones. */
function meaning(name) {
  const known_ = MEANINGS[name.replace(/^truth\/(written|kept)\//, "truth/")];
  if (!known_) return "";
  const whose = name.startsWith("truth/written/") ? "of all written: " : name.startsWith("truth/kept/") ? "of the kept: " : "";
  return whose + known_;
}

/** A metric's name, which leads to its curve, and what it means. */
function metricCell(stage, name) {
  const told = meaning(name);
  return el("span", {}, link(name, { view: "curves", stage, metric: name }), told ? el("span", { class: "soft" }, `: ${told}`) : null);
}

function showWords() {
  const metrics = Object.entries(MEANINGS).map(([name, text]) => [name, { value: text, class: "text" }]);
  const words = WORDS.map(([name, text]) => [name, { value: text, class: "text" }]);
  showDialog("Words", table(["word", "what it means"], words, { caption: "Words" }), el("h3", {}, "Metrics"), table(["metric", "what it means"], metrics, { caption: "Metrics" }));
}
