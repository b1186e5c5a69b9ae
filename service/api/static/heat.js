// Where in a picture a model sees something: one cell for each place of its grid, redder the less it shows the background.

import { element } from "./show.js";

// A grid on a cut or padded picture does not span the file that is shown.
export const spans = ({ grid }) => Boolean(grid?.background && grid.resize === "squash");

const besides = (background, predictions) =>
  1 - (predictions.find((each) => each.label === background)?.probability ?? 0);

// As red as the whole picture is unlike the background, at the cell that is most: a small defect leaves every cell's own share low.
export function heat({ grid, positions, predictions }, image) {
  const canvas = Object.assign(element("canvas", { kind: "heat" }), { width: grid.columns, height: grid.rows });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `where the picture does not show ${grid.background}`);
  const context = canvas.getContext("2d");
  const cells = positions.map((place) => ({ ...place, share: besides(grid.background, place.predictions) }));
  const strength = besides(grid.background, predictions) / Math.max(1e-6, ...cells.map(({ share }) => share));
  for (const { row, column, share } of cells) {
    context.fillStyle = `rgba(220, 38, 38, ${(0.65 * strength * share).toFixed(3)})`;
    context.fillRect(column, row, 1, 1);
  }
  const both = element("div", { kind: "over" });
  image.replaceWith(both);
  both.append(image, canvas);
}
