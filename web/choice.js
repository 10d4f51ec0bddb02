// @ts-check
/** Shows which inputs count for nothing where another decides: they are greyed, and keep their values. */
import { chain } from "./chain.js";

/** What decides, and what may set it. */
const DECIDING = ["choose_by", "preset"];

/**
 * Greys the widgets that "choose_by" does not use.
 * @param {any} node of the host, with a combo "choose_by" whose input options hold {unused: {choice: [widget]}}
 */
export function attachChoice(node) {
  /** @type {Object<string, string[]> | undefined} */
  const unused = node.constructor.nodeData?.input?.optional?.choose_by?.[1]?.unused;
  const choice = node.widgets?.find((/** @type {any} */ widget) => widget.name === "choose_by");
  if (!unused || !choice) return;
  const concerned = new Set(Object.values(unused).flat());

  const mark = () => {
    /** Inputs whose values come from elsewhere, as from the outside of a subgraph, and are not known here. */
    const linked = new Set();
    for (const input of node.inputs ?? []) if (input.link != null) linked.add(input.name);
    const greyed = (!DECIDING.some((name) => linked.has(name)) && unused[choice.value]) || [];
    for (const widget of node.widgets) {
      if (concerned.has(widget.name)) widget.disabled = greyed.includes(widget.name) && !linked.has(widget.name);
    }
    // A caret that is left in an input which cannot be used any more would keep Ctrl+C and Ctrl+V from the graph.
    window.getSelection()?.removeAllRanges();
    node.setDirtyCanvas?.(true, true);
  };

  for (const widget of node.widgets) {
    if (DECIDING.includes(widget.name)) chain(widget, "callback", mark);
  }
  chain(node, "onConfigure", mark);
  chain(node, "onConnectionsChange", mark);
  mark();
}
