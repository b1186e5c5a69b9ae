// The page to try the service with: a file, or the webcam, and what the models say of it.

import { heat, spans } from "./heat.js";
import * as live from "./live.js";
import { $, element, predictions, problem, seconds, sentence, timeline, timings, used } from "./show.js";

const IMAGES = /^image\/(jpeg|png|webp|bmp|x-ms-bmp|tiff)$/;

let asking = null; // the request under way
let held = null; // the file that is shown
let address = null;

const key = () => $("key").value.trim();
const headers = () => (key() ? { Authorization: `Bearer ${key()}` } : {});

async function state() {
  const told = $("state");
  try {
    const response = await fetch("health/ready");
    told.className = `state ${response.ok ? "ready" : "failed"}`;
    told.textContent = response.ok ? "ready" : await sentence(response);
    if (!response.ok) setTimeout(state, 2000);
    else await models();
  } catch {
    told.className = "state failed";
    told.textContent = "The service does not answer.";
    setTimeout(state, 2000);
  }
}

async function models() {
  const response = await fetch("models", { headers: headers() });
  $("key-label").hidden = !(key() || response.status === 401);
  if (!response.ok) {
    if (response.status !== 401) problem(await sentence(response));
    return;
  }
  const { models: served } = await response.json();
  const chosen = $("model").value;
  $("model").replaceChildren(element("option", { text: "the first that fits" }), ...served
    .filter((each) => each.state === undefined || each.state === "READY")
    .map((each) => {
      const made = element("option", { text: `${each.name} ${each.version} · ${each.tasks.join(", ")}` });
      made.value = `${each.name}:${each.version}`;
      return made;
    }));
  $("model").firstChild.value = "";
  $("model").value = chosen;
}

function view(node, caption) {
  $("view").replaceChildren(node);
  $("caption").textContent = caption;
  $("result").hidden = false;
  $("drop").classList.add("small");
}

function clear() {
  problem();
  $("best").textContent = "…";
  for (const id of ["bars", "warnings", "stages", "facts", "line", "ticks"]) $(id).replaceChildren();
  $("time").hidden = $("live").hidden = true;
  $("total").textContent = "";
}

function preview(file, image) {
  if (address) URL.revokeObjectURL(address);
  address = URL.createObjectURL(file);
  const node = image
    ? Object.assign(element("img"), { src: address, alt: file.name })
    : Object.assign(element("video"), { src: address, controls: true, muted: true, playsInline: true });
  node.addEventListener("error", () => $("view").replaceChildren(element("p", { text: "This browser cannot show the file; the service may." })), { once: true });
  view(node, `${file.name} · ${(file.size / 2 ** 20).toFixed(file.size < 2 ** 20 ? 2 : 1)} MB`);
}

async function classify(file) {
  live.end();
  asking?.abort();
  held = file;
  const image = IMAGES.test(file.type), mine = (asking = new AbortController());
  clear();
  preview(file, image);
  $("result").classList.add("busy");
  const query = new URLSearchParams();
  if ($("model").value) query.set("model", $("model").value);
  if (!image && $("window").value) {
    query.set("window_s", $("window").value);
    query.set("stride_s", $("window").value / 2);
  }
  const form = new FormData();
  form.append("file", file);
  try {
    const response = await fetch(`classify/${image ? "image" : "video"}?${query}`, { method: "POST", body: form, headers: headers(), signal: mine.signal });
    if (response.status === 401) $("key-label").hidden = false;
    if (!response.ok) {
      $("best").textContent = "";
      problem(await sentence(response));
      return;
    }
    show(await response.json());
  } catch (fault) {
    if (fault.name !== "AbortError") problem("The service does not answer: it is not running, or the network is down.");
  } finally {
    if (asking === mine) $("result").classList.remove("busy");
  }
}

function show(answer) {
  predictions(answer.predictions);
  $("warnings").replaceChildren(...answer.warnings.map((text) => element("li", { text })));
  const { video, image } = answer;
  const facts = used(answer.model);
  if (video) {
    const { duration_s, fps, width, height, codec, frames_decoded } = video;
    facts.push(["video", `${width}×${height} ${codec}, ${fps.toFixed(1)} a second`], ["decoded", `${frames_decoded} frames, ${seconds(duration_s)}`]);
    facts.push(["looked at", `${answer.sampling.frames.length} frames`]);
    timeline(answer.segments ?? [], answer.sampling.frames, duration_s, (time) => {
      const player = $("view").querySelector("video");
      if (player) player.currentTime = time;
    });
  } else {
    facts.push(["image", `${image.width}×${image.height} ${image.format}`]);
    const shown = $("view").querySelector("img");
    if (spans(answer) && shown) heat(answer, shown);
  }
  timings(answer.timings_ms, facts);
}

async function webcam() {
  if (live.running()) {
    live.end();
    return;
  }
  asking?.abort();
  held = null;
  clear();
  try {
    await live.begin({
      model: $("model").value,
      key: key(),
      shown: (video) => {
        view(video, "webcam");
        $("webcam").setAttribute("aria-pressed", "true");
        $("webcam").textContent = "Stop the webcam";
      },
      ended: () => {
        $("webcam").setAttribute("aria-pressed", "false");
        $("webcam").textContent = "Use the webcam";
      },
    });
  } catch (fault) {
    problem(fault.message);
  }
}

const drop = $("drop");
$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) classify(target.files[0]);
  target.value = "";
});
$("webcam").addEventListener("click", webcam);
$("wishes").addEventListener("submit", (event) => event.preventDefault());
$("key").addEventListener("change", models);
for (const id of ["model", "window"]) {
  $(id).addEventListener("change", () => {
    if (held) classify(held);
    else if (live.running()) {
      live.end();
      webcam();
    }
  });
}
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files[0]) classify(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files[0]) classify(event.clipboardData.files[0]);
});
window.addEventListener("pagehide", () => live.end());

state();
