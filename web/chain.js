// @ts-check
/**
 * Calls `after` behind what stands in `owner[name]`, with the same `this` and arguments; keeps the first's result.
 * @param {any} owner
 * @param {string} name
 * @param {(...args: any[]) => void} after
 */
export function chain(owner, name, after) {
  const before = owner[name];
  owner[name] = function (/** @type {any[]} */ ...args) {
    const result = before?.apply(this, args);
    after.apply(this, args);
    return result;
  };
}
