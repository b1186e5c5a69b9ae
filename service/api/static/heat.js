// Where in a picture a model sees something: one cell for each place of its grid, redder the less it shows the background.

import { element } from "./show.js";

// A grid on a cut or padded picture does not span the file that is shown.
export const spans = ({ grid }) => Boolean(grid?.background && grid.resize === "squash");

export function heat({ grid, positions }, image) {
  const canvas = Object.assign(element("canvas", { kind: "heat" }), { width: grid.columns, height: grid.rows });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `where the picture does not show ${grid.background}`);
  const context = canvas.getContext("2d");
  for (const { row, column, predictions } of positions) {
    const nothing = predictions.find((each) => each.label === grid.background)?.probability ?? 0;
    context.fillStyle = `rgba(220, 38, 38, ${(0.65 * (1 - nothing)).toFixed(3)})`;
    context.fillRect(column, row, 1, 1);
  }
  const both = element("div", { kind: "over" });
  image.replaceWith(both);
  both.append(image, canvas);
}
