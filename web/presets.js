// @ts-check
/** Shows a preset's numbers in the widgets. It only shows: the server reads a named preset from its own table. */
import { chain } from "./chain.js";

/** The choice whose numbers are the widgets' own. */
const CUSTOM = "Custom";
/** Nearer than this two numbers are equal: a widget rounds to its step. */
const TOLERANCE = 1e-6;

/**
 * A choice of preset fills the widgets in; a change of one of these chooses "Custom".
 * @param {any} node of the host, with a combo "preset" whose input options hold {preset: {widget: value}}
 */
export function attachPresets(node) {
  /** @type {Object<string, Object<string, any>> | undefined} */
  const presets = node.constructor.nodeData?.input?.optional?.preset?.[1]?.presets;
  const combo = widget(node, "preset");
  if (!presets || !combo) return;

  const fill = () => {
    for (const [name, value] of Object.entries(presets[combo.value] ?? {})) {
      const target = widget(node, name);
      if (target && !equal(target.value, value)) target.value = value;
    }
    node.setDirtyCanvas?.(true, true);
  };
  const becomeCustom = (/** @type {any} */ target) => {
    const preset = presets[combo.value];
    // Pages call back with the same value too: when an input loses the focus, or when it is set from here.
    if (!preset || !(target.name in preset) || equal(target.value, preset[target.name])) return;
    combo.value = CUSTOM;
    node.setDirtyCanvas?.(true, true);
  };

  chain(combo, "callback", fill);
  // A workflow may carry a preset beside other numbers, where the server would use the preset's.
  chain(node, "onConfigure", fill);
  for (const target of node.widgets) {
    if (target !== combo) chain(target, "callback", () => becomeCustom(target));
  }
}

const widget = (/** @type {any} */ node, /** @type {string} */ name) =>
  node.widgets?.find((/** @type {any} */ candidate) => candidate.name === name);

const equal = (/** @type {any} */ a, /** @type {any} */ b) =>
  typeof a === "number" && typeof b === "number" ? Math.abs(a - b) < TOLERANCE : a === b;
