// @ts-check
/** What is known of a node's latest sampling run, gathered from the server's messages. */

/**
 * One sampler step. By layer: null where the layer stayed dense.
 * @typedef {object} Step
 * @property {number} step from 0
 * @property {number | null} steps of the run; null: unknown
 * @property {(number | null)[]} density
 * @property {(number | null)[]} error relative L2 error, measured on sampled rows
 * @property {number | null} temporal share of heads that ran temporal (SVG)
 * @property {number | null} kept share of key clusters computed (SVG2)
 * @property {number | null} dense_heads share of heads kept dense because of their error
 * @property {Object<string, string>} reasons label -> explanation of the dense calls
 *
 * The end of a run; shares are means over it.
 * @typedef {object} Report
 * @property {number} sparse_calls
 * @property {number} calls
 * @property {number | null} density
 * @property {number | null} error
 * @property {number | null} temporal
 * @property {number | null} kept
 * @property {number | null} dense_heads
 * @property {number | null} work attention work relative to dense
 * @property {Object<string, number>} dense_reasons label -> calls
 * @property {Object<string, string>} explanations label -> explanation
 * @property {number} not_finite_calls sparse calls with NaN or infinity
 * @property {number} broken_calls of these, where dense attention has none
 * @property {string | null} inexact_dense who ran the dense calls, if it is sparse itself
 * @property {Object<string, string>} kernel_failures op (architecture, dtype) -> message
 * @property {Step[]} steps
 *
 * @typedef {{node: string, run: number, method: string}} Head
 *
 * @typedef {object} Record
 * @property {number} run
 * @property {Map<number, Step>} steps by number; a restarted sampler replaces what it repeats
 * @property {Step | null} last the step that came last
 * @property {Report | null} report once the run has ended
 */

/**
 * @param {Record | undefined} record what was known before
 * @param {Head & Step} message
 * @returns {Record}
 */
export function withStep(record, message) {
  // Steps after a report are of another run, also where a restarted server counts its runs anew.
  const same = record && record.run === message.run && !record.report;
  const steps = same ? record.steps : new Map();
  return { run: message.run, steps: steps.set(message.step, message), last: message, report: null };
}

/**
 * @param {Head & Report} message
 * @returns {Record}
 */
export function withReport(message) {
  const steps = new Map(message.steps.map((step) => [step.step, step]));
  return { run: message.run, steps, last: message.steps.at(-1) ?? null, report: message };
}

/**
 * Columns and rows of the map.
 * @param {Record} record
 */
export function extent(record) {
  const steps = [...record.steps.values()];
  return {
    columns: Math.max(0, ...steps.map((step) => Math.max(step.step + 1, step.steps ?? 0))),
    rows: Math.max(0, ...steps.map((step) => step.density.length)),
  };
}

/**
 * Mean of what is not null, or null without any.
 * @param {(number | null)[]} values
 */
export function mean(values) {
  const known = /** @type {number[]} */ (values.filter((value) => value !== null));
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}
