// @ts-check
/** Density of every layer (rows) in every step (columns), a pixel each; the page stretches it to size. */
import { extent } from "./record.js";

/** @typedef {import("./record.js").Record} Record */

/** Viridis less its ends, which would be lost on a dark or a light page. */
const COLOURS = [
  [72, 40, 120],
  [49, 104, 142],
  [31, 158, 137],
  [94, 201, 98],
  [190, 223, 38],
];
/** Grey that is seen on dark and light alike. */
const DENSE = [136, 136, 136, 120];
/** Ends that the colour scale may have: few, so that colours seldom change while a run goes on. */
const SCALES = [0.1, 0.25, 0.5, 0.75, 1];

export const GRADIENT = `linear-gradient(to right, ${COLOURS.map((rgb) => `rgb(${rgb})`).join(", ")})`;
export const DENSE_COLOUR = `rgba(${DENSE.slice(0, 3)}, ${DENSE[3] / 255})`;

/**
 * The density at the end of the colour scale.
 * @param {Record} record
 */
export function scaleEnd(record) {
  const densities = [...record.steps.values()].flatMap((step) => step.density.map((density) => density ?? 0));
  return SCALES.find((end) => densities.every((density) => density <= end)) ?? 1;
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Record} record
 */
export function drawHeatMap(canvas, record) {
  const { columns, rows } = extent(record);
  canvas.width = Math.max(1, columns);
  canvas.height = Math.max(1, rows);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(canvas.width, canvas.height);
  const end = scaleEnd(record);
  for (const { step, density } of record.steps.values()) {
    density.forEach((value, layer) => {
      image.data.set(value === null ? DENSE : [...colour(value / end), 255], 4 * (layer * canvas.width + step));
    });
  }
  context.putImageData(image, 0, 0);
}

/**
 * @param {number} share of the scale, 0-1
 * @returns {number[]}
 */
function colour(share) {
  const place = Math.min(Math.max(share, 0), 1) * (COLOURS.length - 1);
  const low = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[low].map((from, channel) => from + (COLOURS[low + 1][channel] - from) * (place - low));
}
