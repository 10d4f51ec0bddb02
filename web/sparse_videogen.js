// @ts-check
/** The pack's part of the page: a live panel under the attention nodes, their presets, and which inputs count. */
// @ts-ignore: served by the host
import { app } from "../../scripts/app.js";
// @ts-ignore: served by the host
import { api } from "../../scripts/api.js";
import { attachChoice } from "./choice.js";
import { attachPanel, receive, showPanels } from "./panel_node.js";
import { attachPresets } from "./presets.js";

const NODES = new Set(["SVGAttention", "SVG2Attention", "SVGAttentionRay", "SVG2AttentionRay"]);

const style = document.createElement("link");
style.rel = "stylesheet";
style.href = new URL("panel.css", import.meta.url).href;
document.head.append(style);

app.registerExtension({
  name: "SparseVideoGen",
  settings: [
    {
      id: "SparseVideoGen.ShowPanel",
      name: "Show a panel under the attention nodes",
      category: ["Sparse VideoGen", "Panel", "ShowPanel"],
      type: "boolean",
      defaultValue: true,
      tooltip: "During a run and after it, the panel shows the step, density, measured error and a map of layers by steps.",
      onChange: showPanels,
    },
  ],
  setup() {
    // Always, panel or not: newer pages report an event that nobody listens for as an error.
    for (const kind of /** @type {const} */ (["step", "run"])) {
      api.addEventListener(`sparse_videogen.${kind}`, (/** @type {CustomEvent} */ event) => receive(kind, event.detail));
    }
  },
  nodeCreated(/** @type {any} */ node) {
    if (!NODES.has(node.comfyClass)) return;
    attachPresets(node);
    attachChoice(node); // after the presets, which may set the choice
    attachPanel(node);
  },
});
