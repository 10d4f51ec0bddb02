// @ts-check
/** The panel as a piece of the page; knows nothing of nodes. */
import { DENSE_COLOUR, GRADIENT, drawHeatMap, scaleEnd } from "./heat_map.js";
import { cellText } from "./record.js";

/** @typedef {import("./record.js").Record} Record */

/** Pixels that it needs, as in panel.css. */
export const HEIGHT = 216;

export class Panel {
  constructor() {
    this.title = make("strong");
    this.figures = make("span");
    this.heads = make("p", "heads");
    this.map = /** @type {HTMLCanvasElement} */ (make("canvas"));
    this.hint = make("span", "hint");
    this.end = make("span");
    this.notes = make("ul");
    const gradient = make("i", "gradient");
    gradient.style.background = GRADIENT;
    const dense = make("i", "dense");
    dense.style.background = DENSE_COLOUR;
    this.legend = make("div", "legend", this.hint, make("span", "scale", "0", gradient, this.end, dense, "dense"));
    this.element = make(
      "div",
      "sparse-videogen-panel",
      make("p", "headline", this.title, this.figures),
      this.heads,
      make("div", "map", this.map),
      this.legend,
      this.notes,
    );
    /** @type {Record | null} */
    this.record = null;
    this.map.addEventListener("pointermove", (event) => this.#point(event));
    this.map.addEventListener("pointerleave", () => this.#rest());
  }

  /** @param {Record} record */
  show(record) {
    this.record = record;
    const { line, heads, warnings, notes } = record.words;
    const [title] = line.split(",");
    this.title.textContent = title;
    this.figures.textContent = line.slice(title.length);
    this.heads.textContent = heads;
    this.notes.replaceChildren(
      ...warnings.map((text) => make("li", "warning", text)),
      ...notes.map((text) => make("li", "", text)),
    );
    this.end.textContent = String(scaleEnd(record));
    drawHeatMap(this.map, record);
    this.#rest();
  }

  /** What the map's axes are. */
  #rest() {
    this.legend.classList.remove("pointed");
    this.hint.textContent = "layers ↓  steps →";
  }

  /** The figures of one cell, in place of the legend. */
  #point(/** @type {PointerEvent} */ event) {
    const box = this.map.getBoundingClientRect(); // also right where the canvas is zoomed
    const column = Math.floor(((event.clientX - box.left) / box.width) * this.map.width);
    const row = Math.floor(((event.clientY - box.top) / box.height) * this.map.height);
    const text = cellText(this.record, column, row);
    this.#rest();
    if (!text) return;
    this.legend.classList.add("pointed");
    this.hint.textContent = text;
  }
}

function make(/** @type {string} */ tag, className = "", /** @type {(Node | string)[]} */ ...children) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}
