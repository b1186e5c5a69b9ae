// Puts answers on the page. Texts are set as text, never as markup: labels and file names are somebody else's.

export const $ = (id) => document.getElementById(id);

export function element(name, { text, kind, title } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  if (title) made.title = title;
  made.append(...children);
  return made;
}

export const percent = (share) => `${(share * 100).toFixed(share >= 0.9995 || share < 0.0995 ? 1 : 0)} %`;
export const seconds = (value) => `${value.toFixed(value < 10 ? 2 : 1)} s`;
const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;

const kinds = new Map();

/** One of eight colours for each label, in the order in which they turn up. */
export function kindOf(label) {
  if (!kinds.has(label)) kinds.set(label, `k${kinds.size % 8}`);
  return kinds.get(label);
}

export function problem(text) {
  $("problem").textContent = text ?? "";
  $("problem").hidden = !text;
}

/** The sentence of an RFC 9457 problem, or what can be said without one. */
export async function sentence(response) {
  const body = await response.json().catch(() => null);
  return body?.detail ?? `The service answered ${response.status}, without a reason.`;
}

export function predictions(found) {
  const best = `${found[0].label}, ${percent(found[0].probability)}`;
  if ($("best").textContent !== best) $("best").textContent = best;
  const bars = $("bars");
  found.slice(0, 10).forEach((each, place) => {
    const row = bars.children[place] ?? bars.appendChild(bar());
    row.children[0].textContent = each.label;
    row.children[1].textContent = percent(each.probability);
    row.querySelector(".track span").style.width = `${each.probability * 100}%`;
  });
  while (bars.children.length > Math.min(found.length, 10)) bars.lastChild.remove();
}

function bar() {
  const track = element("span", { kind: "track" }, element("span"));
  track.setAttribute("aria-hidden", "true");
  return element("li", {}, element("span"), element("span", { kind: "share" }), track);
}

export function timings(parts, facts) {
  const { total, ...stages } = parts;
  $("total").textContent = milliseconds(total);
  $("stages").replaceChildren();
  $("facts").replaceChildren();
  Object.entries(stages).forEach(([stage, spent], place) => {
    const part = element("span", { kind: `k${place % 8}`, title: `${stage} ${milliseconds(spent)}` });
    part.style.flexGrow = spent;
    $("stages").append(part);
    fact(stage, milliseconds(spent), `k${place % 8}`);
  });
  for (const [name, value] of facts) fact(name, value);
}

function fact(name, value, kind) {
  const term = element("dt", {}, ...(kind ? [element("i", { kind })] : []), name);
  $("facts").append(element("div", {}, term, element("dd", { text: value })));
}

export function used(model) {
  return [["model", `${model.name} ${model.version}`], ["engine", `${model.engine} ${model.precision}`], ["device", model.device]];
}

/** Segments as buttons that bring the player there, and a tick for each frame that was looked at, as high as it counted. */
export function timeline(segments, frames, duration, seek) {
  $("time").hidden = false;
  $("time-title").textContent = segments.length ? "Over time" : "Frames that were looked at";
  $("line").hidden = !segments.length;
  $("line").replaceChildren(...segments.map((segment) => {
    const { label, probability } = segment.predictions[0];
    const text = `${label}, ${percent(probability)}, ${seconds(segment.start_s)} to ${seconds(segment.end_s)}`;
    const made = element("button", { text: label, kind: kindOf(label), title: text });
    made.type = "button";
    made.setAttribute("aria-label", text);
    place(made, segment.start_s, segment.end_s, duration);
    made.addEventListener("click", () => seek(segment.start_s));
    return made;
  }));
  const most = Math.max(...frames.map((frame) => frame.weight ?? 0));
  $("ticks").replaceChildren(...frames.map((frame) => {
    const tick = element("span");
    tick.style.left = `${(frame.time_s / duration) * 100}%`;
    tick.style.height = `${most ? 20 + 80 * (frame.weight / most) : 100}%`;
    return tick;
  }));
  $("from").textContent = "0 s";
  $("to").textContent = seconds(duration);
}

/** The likeliest class over the last seconds of a stream. */
export function strip(spans, from, to) {
  $("time").hidden = false;
  $("time-title").textContent = "The last minute";
  $("line").hidden = false;
  $("line").replaceChildren(...spans.map((span) => {
    const made = element("span", { text: span.label, kind: kindOf(span.label), title: span.label });
    place(made, span.start - from, span.end - from, to - from);
    return made;
  }));
  $("ticks").replaceChildren();
  $("from").textContent = `${Math.round(to - from)} s ago`;
  $("to").textContent = "now";
}

function place(made, start, end, whole) {
  made.style.left = `${(Math.max(0, start) / whole) * 100}%`;
  made.style.width = `${((end - Math.max(0, start)) / whole) * 100}%`;
}
