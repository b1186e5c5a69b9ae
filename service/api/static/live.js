// The webcam as a live stream: pictures over a WebSocket at the model's spacing, rolling predictions back.

import { $, percent, predictions, problem, strip, timings, used } from "./show.js";

const SIDE = 640;
const FULL = 2 ** 18; // bytes that may wait in the browser before a picture is left out
const KEPT = 60; // seconds

let stop = null;

export const running = () => stop !== null;
export const end = () => stop?.();

export async function begin({ model, key, shown, ended }) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("Browsers give the webcam to https:// pages and to localhost only: open this page as one of these.");
  }
  const media = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: SIDE } } }).catch((fault) => {
    const why = { NotAllowedError: "this page may not use it", NotFoundError: "there is none", NotReadableError: "another program uses it" };
    throw new Error(`The webcam cannot be used: ${why[fault.name] ?? fault.message}.`);
  });
  const video = Object.assign(document.createElement("video"), { srcObject: media, muted: true, playsInline: true });
  shown(video);
  await video.play();

  const address = new URL("classify/stream", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  if (model) address.searchParams.set("model", model);
  const socket = new WebSocket(address, key ? ["marey", `marey.key.${key}`] : ["marey"]);
  let timer, told = "", skipped = 0;
  const spans = [];
  stop = () => {
    stop = null;
    clearTimeout(timer);
    socket.close();
    media.getTracks().forEach((track) => track.stop());
    ended();
  };

  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.type === "ready") {
      send(message.spacing_s);
    } else if (message.type === "problem") {
      problem((told = message.problem.detail));
    } else {
      if (told) problem((told = ""));
      show(message);
    }
  };
  socket.onclose = async ({ code }) => {
    if (!stop) return;
    stop();
    const asked = new URL(address.href.replace(/^ws/, "http"));
    if (code === 1012) problem("The service is restarting, or has put another model in place: start the webcam again.");
    else if (code === 1006 && !told) problem(`No stream could be had from ${asked.host}: too many are open, or a key is missing.`);
    else if (!told) problem(`The service ended the stream (${code}).`);
  };

  function send(spacing) {
    const canvas = document.createElement("canvas"), began = performance.now();
    let count = 0;
    const take = () => {
      if (!stop) return;
      count += 1;
      timer = setTimeout(take, Math.max(0, began + count * spacing * 1000 - performance.now()));
      if (socket.bufferedAmount > FULL || !video.videoWidth) {
        skipped += 1;
        return;
      }
      const factor = Math.min(1, SIDE / Math.max(video.videoWidth, video.videoHeight));
      canvas.width = Math.round(video.videoWidth * factor);
      canvas.height = Math.round(video.videoHeight * factor);
      canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
      const time = performance.now() / 1000;
      canvas.toBlob((image) => {
        if (socket.readyState !== WebSocket.OPEN) return;
        socket.send(JSON.stringify({ time_s: time, duration_s: spacing }));
        socket.send(image);
      }, "image/jpeg", 0.85);
    };
    take();
  }

  function show(message) {
    predictions(message.predictions);
    const { label } = message.predictions[0], now = message.window.end_s, last = spans.at(-1);
    if (last?.label === label) last.end = now;
    else spans.push({ label, start: last ? last.end : now - 0.1, end: now });
    while (spans[0].end < now - KEPT) spans.shift();
    strip(spans, Math.max(spans[0].start, now - KEPT), now);
    const filling = message.filled < 1 ? `window ${percent(message.filled)} full · ` : "";
    const lost = message.dropped + skipped;
    $("live").hidden = false;
    $("live").textContent = `${filling}${Math.round(message.latency_ms)} ms from picture to answer · ${lost} dropped`;
    timings(message.timings_ms, used(message.model));
  }
}
