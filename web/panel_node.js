// @ts-check
/** Which node shows which run: a panel comes under a node with its first run, and goes with the setting. */
// @ts-ignore: served by the host
import { app } from "../../scripts/app.js";
import { chain } from "./chain.js";
import { HEIGHT, Panel } from "./panel.js";
import { withReport, withStep } from "./record.js";

/** @typedef {import("./record.js").Record} Record */

const MARGIN = 10; // that the host leaves around a widget
/** Latest run by graph and node, since undo and a change of tab make nodes anew. @type {Map<string, Record>} */
const records = new Map();
/** Those in a graph now. @type {Set<NodePanel>} */
const attached = new Set();
let wanted = true;
let made = 0;

/** @param {boolean} show */
export function showPanels(show) {
  wanted = show;
  for (const panel of attached) panel.refresh();
}

/** @param {any} node of the host */
export function attachPanel(node) {
  const panel = new NodePanel(node);
  chain(node, "onAdded", () => {
    attached.add(panel);
  });
  chain(node, "onConfigure", () => panel.refresh());
  chain(node, "onRemoved", () => {
    attached.delete(panel);
    panel.remove();
  });
  // The workflow is saved as if there were no panel: its coming and going is no change that one could undo.
  chain(node, "onSerialize", (/** @type {any} */ saved) => {
    saved.size = [saved.size[0], saved.size[1] - panel.grown];
  });
}

/**
 * @param {"step" | "run"} kind
 * @param {any} message of the server
 */
export function receive(kind, message) {
  const node = findNode(message.node);
  const panel = [...attached].find((candidate) => candidate.node === node);
  if (!panel) return; // the workflow that runs is not the one that is open
  records.set(panel.key(), kind === "run" ? withReport(message) : withStep(records.get(panel.key()), message));
  panel.refresh();
}

/**
 * The node of an execution id such as "9:2": node 2 in the subgraph of node 9.
 * @param {string} id
 */
function findNode(id) {
  const path = String(id).split(":");
  const last = path.pop();
  let graph = app.rootGraph ?? app.graph;
  for (const part of path) graph = graph?.getNodeById(part)?.subgraph;
  return graph?.getNodeById(last);
}

class NodePanel {
  constructor(/** @type {any} */ node) {
    this.node = node;
    /** @type {Panel | null} */
    this.panel = null;
    this.widget = null;
    this.grown = 0; // pixels by which the panel made the node higher
  }

  key() {
    return `${this.node.graph?.id}/${this.node.id}`;
  }

  /** Shows what is known and wanted. */
  refresh() {
    const record = records.get(this.key());
    if (!record || !wanted) {
      this.remove();
      return;
    }
    if (!this.panel) this.#add();
    this.panel?.show(record);
  }

  #add() {
    const { node } = this;
    this.panel = new Panel();
    handToCanvas(this.panel.element);
    // A name of its own: Vue keeps the element that it has mounted while id and name stay the same, as after an undo.
    this.widget = node.addDOMWidget(`live_panel_${++made}`, "sparse_videogen_panel", this.panel.element, {
      serialize: false,
      hideOnZoom: false,
      hideInPanel: true,
      getMinHeight: () => HEIGHT + 2 * MARGIN,
      getValue: () => "",
      setValue() {},
    });
    this.widget.serialize = false;
    this.widget.label = "live panel";
    const before = node.size[1];
    // A Vue node may be lower than what litegraph computes, which counts the inputs that are folded away.
    node.setSize([node.size[0], drawnByVue() ? before + HEIGHT + 2 * MARGIN : Math.max(before, node.computeSize()[1])]);
    this.grown = node.size[1] - before;
  }

  remove() {
    if (!this.panel) return;
    this.node.removeWidget(this.widget);
    this.node.setSize([this.node.size[0], this.node.size[1] - this.grown]);
    this.panel = this.widget = null;
    this.grown = 0;
  }
}

/**
 * Zooming and panning go on over the panel. Of Vue nodes the page does so itself.
 * @param {HTMLElement} element
 */
function handToCanvas(element) {
  const hand = (/** @type {string} */ kind, /** @type {string} */ method, /** @type {(event: any) => boolean} */ concerns) =>
    element.addEventListener(kind, (event) => {
      if (!drawnByVue() && concerns(event)) app.canvas[method](event);
    });
  hand("wheel", "processMouseWheel", () => true);
  hand("pointerdown", "processMouseDown", (event) => event.button === 1);
  hand("pointermove", "processMouseMove", (event) => (event.buttons & 4) !== 0);
  hand("pointerup", "processMouseUp", (event) => event.button === 1);
}

// @ts-ignore: a global of the host
const drawnByVue = () => Boolean(LiteGraph.vueNodesMode);
