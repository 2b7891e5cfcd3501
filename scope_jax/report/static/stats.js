// Means with intervals, histograms, smoothing.
"use strict";

function known(values) {
  return values.filter((v) => v !== null && v !== undefined && Number.isFinite(v));
}

function mean(values) {
  const some = known(values);
  return some.length ? some.reduce((a, b) => a + b, 0) / some.length : null;
}

// Two-sided 95% quantiles of Student's distribution, by degrees of freedom.
const T = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];

/** Half of the 95% interval of a mean over runs; null of fewer than two. */
function half(values) {
  const some = known(values);
  if (some.length < 2) return null;
  const middle = mean(some);
  const variance = some.reduce((sum, v) => sum + (v - middle) ** 2, 0) / (some.length - 1);
  const degrees = some.length - 1;
  const t = T[degrees - 1] ?? 1.96 + 2.4 / degrees;
  return t * Math.sqrt(variance / some.length);
}

/** Counts of values in equal bins from `low` to `high`; ends belong to the outer bins. */
function histogram(values, low, high, bins) {
  const counts = new Array(bins).fill(0);
  for (const value of known(values)) {
    const bin = Math.floor(((value - low) / (high - low)) * bins);
    counts[Math.min(Math.max(bin, 0), bins - 1)] += 1;
  }
  return counts;
}

/** Exponential mean of what came before, corrected for its start; gaps stay gaps. */
function smoothed(values, weight) {
  if (!weight) return values;
  let sum = 0;
  let norm = 0;
  return values.map((value) => {
    if (value === null || value === undefined) return null;
    sum = sum * weight + value * (1 - weight);
    norm = norm * weight + (1 - weight);
    return sum / norm;
  });
}

function plusMinus(value, error) {
  if (value === null || value === undefined) return "–";
  return error === null || error === undefined ? number(value) : `${value.toFixed(3)} ± ${error.toFixed(3)}`;
}

/** A value with an interval that need not be symmetric; alone where none is known. */
function between(value, low, high) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(low) || !Number.isFinite(high)) return number(value);
  return `${value.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]`.replaceAll("-", "−");
}

function share(part, whole) {
  return whole ? `${((100 * part) / whole).toFixed(1)}%` : "–";
}

/** Values by a key, in the order in which the keys appear. */
function grouped(items, key) {
  const found = new Map();
  for (const item of items) {
    const own = key(item);
    if (!found.has(own)) found.set(own, []);
    found.get(own).push(item);
  }
  return found;
}
