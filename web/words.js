// @ts-check
/** A record in words. */
import { mean } from "./record.js";

/** @typedef {import("./record.js").Record} Record */
/** @typedef {import("./record.js").Step} Step */
/** @typedef {import("./record.js").Report} Report */

/** Less than this much less work is not worth a word. */
const WORTH_SAYING = 1.05;

/**
 * @typedef {object} Words
 * @property {string} title
 * @property {string} figures goes on from the title
 * @property {string} shares of heads and clusters
 * @property {{text: string, warning: boolean}[]} notes
 */

/**
 * @param {Record} record
 * @returns {Words}
 */
export function describe({ last, report }) {
  if (report) {
    return { title: callsText(report), figures: reportFigures(report), shares: sharesText(report), notes: reportNotes(report) };
  }
  return last
    ? { title: stepText(last), figures: stepFigures(last), shares: sharesText(last), notes: stepNotes(last) }
    : { title: "", figures: "", shares: "", notes: [] };
}

/**
 * One cell of the map.
 * @param {Step | undefined} step
 * @param {number} layer
 */
export function cellText(step, layer) {
  if (!step || layer >= step.density.length) return "";
  const place = `layer ${layer}, step ${step.step + 1}: `;
  return place + join([densityText(step.density[layer]) ?? "dense", errorText(step.error[layer] ?? null)]);
}

const stepText = (/** @type {Step} */ step) =>
  `Step ${step.step + 1}${step.steps ? ` of ${step.steps}` : ""}, ${mean(step.density) === null ? "dense" : "sparse"}`;

const stepFigures = (/** @type {Step} */ step) => join([densityText(mean(step.density)), errorText(mean(step.error))]);

const stepNotes = (/** @type {Step} */ step) =>
  Object.entries(step.reasons).map(([label, text]) => ({ text: `${label}: ${text}`, warning: false }));

function callsText(/** @type {Report} */ { sparse_calls, calls }) {
  if (!calls) return "No attention call came past this node";
  return sparse_calls ? `${sparse_calls} of ${calls} calls sparse` : `All ${calls} calls dense`;
}

function reportFigures(/** @type {Report} */ report) {
  const less = report.work ? 1 / report.work : 1;
  const work = less >= WORTH_SAYING ? `about ${less.toFixed(1)}x less attention work` : null;
  return report.sparse_calls ? join([densityText(report.density), errorText(report.error), work]) : "";
}

function reportNotes(/** @type {Report} */ report) {
  const notes = Object.entries(report.dense_reasons).map(([label, calls]) => {
    const explanation = report.explanations[label];
    return { text: `${label}${explanation ? `: ${explanation}` : ""} (${counted(calls, "call")})`, warning: false };
  });
  const { not_finite_calls, broken_calls: broken, inexact_dense } = report;
  const brought = not_finite_calls - broken;
  const failed = Object.keys(report.kernel_failures);
  const warnings = [
    brought && `NaN or infinity in ${counted(brought, "sparse call")}, in dense attention too: the model's q, k or v brought it`,
    broken && `NaN or infinity in ${counted(broken, "sparse call")} where dense attention has none: please report this fault`,
    inexact_dense &&
      notes.length &&
      `The dense calls may not be exact: ${inexact_dense} takes them and seems to be sparse; remove that node or set dense_attention to host`,
    failed.length && `torch in place of Triton: ${failed.join(", ")}`,
  ];
  return [...warnings.filter(Boolean).map((text) => ({ text: String(text), warning: true })), ...notes];
}

function sharesText(/** @type {Step | Report} */ { temporal, kept, dense_heads }) {
  return join([
    temporal === null ? null : `${percent(1 - temporal)} of heads spatial, ${percent(temporal)} temporal`,
    kept === null ? null : `${percent(kept)} of key clusters kept`,
    dense_heads ? `${percent(dense_heads)} of heads kept dense (max_error)` : null,
  ]);
}

const densityText = (/** @type {number | null} */ density) => (density === null ? null : `density ${density.toFixed(2)}`);

// A space that no line ends in stands before the sign.
const errorText = (/** @type {number | null} */ error) => (error === null ? null : `error ${(100 * error).toFixed(1)}\u00a0%`);

/** With one decimal below ten. */
const percent = (/** @type {number} */ share) => `${Number((100 * share).toFixed(share < 0.0995 ? 1 : 0))}\u00a0%`;

const counted = (/** @type {number} */ count, /** @type {string} */ noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

const join = (/** @type {(string | null)[]} */ parts) => parts.filter(Boolean).join(", ");
