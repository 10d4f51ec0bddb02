// @ts-check
/** What is known of a node's latest sampling run, gathered from the server's messages. */

/**
 * The server's words for a step or a run.
 * @typedef {object} Words
 * @property {string} line such as "36 of 48 calls sparse, density 0.31"
 * @property {string} heads what the heads did; may be empty
 * @property {string[]} warnings
 * @property {string[]} notes why calls stayed dense
 *
 * One sampler step. By layer: null where the layer stayed dense.
 * @typedef {object} Step
 * @property {number} step from 0
 * @property {number | null} steps of the run; null: unknown
 * @property {(number | null)[]} density
 * @property {(number | null)[]} error relative L2 error, measured on sampled rows
 *
 * @typedef {{node: string, run: number}} Head
 *
 * @typedef {object} Record
 * @property {number} run
 * @property {Map<number, Step>} steps by number; a restarted sampler replaces what it repeats
 * @property {Words} words of the step that came last, or of the run once it has ended
 * @property {boolean} ended
 */

/**
 * @param {Record | undefined} record what was known before
 * @param {Head & Step & Words} message
 * @returns {Record}
 */
export function withStep(record, message) {
  // Steps after a report are of another run, also where a restarted server counts its runs anew.
  const same = record && record.run === message.run && !record.ended;
  const steps = same ? record.steps : new Map();
  return { run: message.run, steps: steps.set(message.step, message), words: message, ended: false };
}

/**
 * @param {Head & Words & {steps: Step[]}} message
 * @returns {Record}
 */
export function withReport(message) {
  const steps = new Map(message.steps.map((step) => [step.step, step]));
  return { run: message.run, steps, words: message, ended: true };
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
 * One cell of the map in words.
 * @param {Record | null} record
 * @param {number} column
 * @param {number} layer
 */
export function cellText(record, column, layer) {
  const step = record?.steps.get(column);
  if (!step || layer >= step.density.length) return "";
  const [density, error] = [step.density[layer], step.error[layer]];
  const measured = error === null ? "" : `, error ${(100 * error).toFixed(1)}%`;
  return `layer ${layer}, step ${column + 1}: ${density === null ? "dense" : `density ${density.toFixed(2)}${measured}`}`;
}
