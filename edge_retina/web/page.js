// The page: status events once a second, pictures of all cameras in one stream, both taken up again when they break.

import { Plot } from "./plot.js";

const RETRY_MS = 2000;
const GONE_MS = 3500; // status comes every second
const DELAYED_MS = 4000;
const STATES = { connecting: "connecting", live: "live", stale: "stalled", down: "down" };

const find = (id) => document.getElementById(id);
const cards = new Map();
const classes = new Plot(find("classes"), "Objects in view over time", "Nothing detected yet");
const latency = new Plot(find("latency"), "Latency over time", "No live camera yet; files have no latency");
let lastStatus = Date.now(), heard = false, source = null, retry = null, pictures = null;

// ---- cameras

function card(name) {
  let found = cards.get(name);
  if (found) return found;
  const node = find("camera").content.firstElementChild.cloneNode(true);
  const [title, badge, button, canvas, picture, veil, facts, seen] =
    ["h2", ".state", "button", "canvas", ".picture", ".veil", "dl", ".seen"].map((part) => node.querySelector(part));
  const size = document.createElement("small");
  title.append(name, size);
  button.addEventListener("click", () => {
    const large = node.classList.toggle("large");
    button.setAttribute("aria-pressed", large);
    button.textContent = large ? "Shrink" : "Enlarge";
  });
  found = { node, size, badge, canvas, picture, veil, facts, seen, context: canvas.getContext("2d"), at: 0, busy: false, next: null };
  cards.set(name, found);
  find("cameras").append(node);
  find("cameras").classList.toggle("one", cards.size === 1);
  return found;
}

function duration(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  const hours = Math.floor(seconds / 3600);
  return hours < 48 ? `${hours} h ${Math.floor((seconds % 3600) / 60)} min` : `${Math.floor(hours / 24)} days`;
}

function fact(name, value, unit = "") {
  const group = document.createElement("div"), term = document.createElement("dt"), definition = document.createElement("dd");
  term.textContent = name;
  definition.textContent = value ?? "–";
  if (unit && value !== null) {
    const small = document.createElement("small");
    small.textContent = ` ${unit}`;
    definition.append(small);
  }
  group.append(term, definition);
  return group;
}

function showCamera(camera) {
  const shown = card(camera.name);
  shown.state = camera;
  shown.badge.className = `state ${camera.state}`;
  shown.badge.textContent = camera.state === "live" ? "live" : `${STATES[camera.state]} ${duration(camera.state_s)}`;
  const late = camera.latency_ms;
  const facts = [fact("Rate", camera.fps.toFixed(1), "fps")];
  if (camera.live) {
    const whole = (value) => (value === null ? null : Math.round(value));
    facts.push(fact("Latency p50", whole(late.p50), "ms"), fact("p90", whole(late.p90), "ms"), fact("p99", whole(late.p99), "ms"));
  }
  facts.push(fact("Frames", camera.frames.toLocaleString("en")));
  if (camera.live) {
    facts.push(fact("Dropped", camera.drops.toLocaleString("en")), fact("Reconnects", camera.reconnects));
    const seconds = camera.age_ms / 1000;
    facts.push(seconds < 10 ? fact("Age", camera.age_ms, "ms") : fact("Age", duration(seconds)));
  }
  shown.size.textContent = camera.width ? `${camera.width} × ${camera.height}` : "";
  shown.facts.replaceChildren(...facts);
  const counts = Object.entries(camera.counts);
  const text = counts.map(([name, count]) => `${count} ${name}`).join(", ");
  const bold = counts.flatMap(([name, count], number) => {
    const value = document.createElement("b");
    value.textContent = `${name} × ${count}`;
    return [number ? ", " : "", value];
  });
  shown.seen.replaceChildren("In view: ", ...(bold.length ? bold : ["nothing"]));
  shown.canvas.setAttribute("aria-label", `Live picture of ${camera.name}; in view: ${text || "nothing"}`);
  showVeil(shown);
}

function showVeil(shown) {
  const camera = shown.state;
  let text = "";
  if (camera && camera.state !== "live") {
    text = { connecting: "Connecting", stale: "No new frame", down: "Camera is down" }[camera.state];
    text += ` for ${duration(camera.state_s)}${camera.reason ? `: ${camera.reason}` : ""}`;
  } else if (shown.at && !document.hidden && Date.now() - shown.at > DELAYED_MS) {
    text = "The picture is delayed: slow connection?";
  }
  if (shown.veil.textContent !== text) shown.veil.textContent = text;
  shown.veil.hidden = !text;
  shown.picture.classList.toggle("old", Boolean(text));
}

// ---- status

function showStatus(status) {
  lastStatus = Date.now();
  heard = true;
  gone(false);
  status.cameras.forEach(showCamera);
  const live = status.cameras.filter((camera) => camera.state === "live").length, all = status.cameras.length;
  const cameras = all === 1 ? `camera ${status.cameras[0].state === "live" ? "live" : "not live"}` : `${live} of ${all} cameras live`;
  const viewers = Math.ceil(status.viewers / 2); // a page has two streams
  const overall = `${all ? cameras : "no camera yet"} · running for ${duration(status.uptime_s)} · ${viewers} ${viewers === 1 ? "viewer" : "viewers"}`;
  find("overall").textContent = overall;
  document.title = all && live < all ? `(${all - live} not live) edge-retina` : "edge-retina";
}

function showHistory(history) {
  classes.show(history.classes, history.step_s);
  const [first] = history.latency, one = history.latency.length === 1;
  const lines = one
    ? [{ name: "p50", values: first.p50 }, { name: "p99", values: first.p99 }]
    : history.latency.map((row) => ({ name: row.camera, values: row.p99 }));
  latency.show(lines, history.step_s);
  find("latency-about").textContent =
    `From a frame’s capture to its detections, in milliseconds${one || !first ? "" : "; 99th percentile of each camera"}.`;
  const rows = history.events.reverse().map((event) => {
    const row = document.createElement("li"), time = document.createElement("time"), text = document.createElement("span");
    const when = new Date(event.time_ns / 1e6);
    time.dateTime = when.toISOString();
    time.textContent = when.toLocaleTimeString();
    const about = { ...event };
    if (about.width && about.height) about.size = `${about.width} × ${about.height}`;
    if (about.retry_s) about["next attempt in"] = `${about.retry_s} s`;
    for (const key of ["event", "camera", "at_ns", "time_ns", "reason", "width", "height", "retry_s"]) delete about[key];
    const details = Object.entries(about).map(([key, value]) => `${key} ${typeof value === "object" ? JSON.stringify(value) : value}`);
    text.textContent = [event.camera, STATES[event.event] ?? event.event, event.reason, ...details].filter(Boolean).join(" · ");
    row.append(time, text);
    return row;
  });
  if (rows.length === 0) {
    const row = document.createElement("li");
    row.textContent = "Nothing has happened: no camera went or came back.";
    rows.push(row);
  }
  find("events").replaceChildren(...rows);
}

function gone(is) {
  document.body.classList.toggle("gone", is);
  const banner = find("banner");
  if (is && banner.hidden) {
    banner.textContent = `No answer from edge-retina since ${new Date(lastStatus).toLocaleTimeString()}. Trying again every 2 seconds.`;
    find("overall").textContent = "not connected";
    document.title = "(not connected) edge-retina";
  }
  banner.hidden = !is;
}

function listen() {
  source?.close();
  source = new EventSource("status");
  source.addEventListener("status", (event) => showStatus(JSON.parse(event.data)));
  source.addEventListener("history", (event) => showHistory(JSON.parse(event.data)));
  source.addEventListener("error", async () => {
    gone(true);
    if (source.readyState !== EventSource.CLOSED || document.hidden) return;
    clearTimeout(retry);
    retry = setTimeout(listen, RETRY_MS);
    const answer = await fetch("healthz").catch(() => null);
    if (answer?.status === 401) location.reload(); // the token has changed
  });
}

// ---- pictures

async function watch(stop) {
  while (!stop.signal.aborted) {
    try {
      const answer = await fetch("pictures", { signal: stop.signal });
      if (answer.ok) await read(answer.body.getReader());
    } catch {
      // gone, or hidden: the loop's condition tells which
    }
    await new Promise((done) => setTimeout(done, RETRY_MS));
  }
}

// Parts of a multipart stream: lines of headers, an empty line, Content-Length bytes.
async function read(reader) {
  const decoder = new TextDecoder("latin1");
  let buffer = new Uint8Array(0);
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const joined = new Uint8Array(buffer.length + value.length);
    joined.set(buffer);
    joined.set(value, buffer.length);
    buffer = joined;
    for (;;) {
      const head = decoder.decode(buffer.subarray(0, 1024));
      const end = head.indexOf("\r\n\r\n");
      if (end < 0) break;
      const field = (name) => head.slice(0, end).match(new RegExp(`^${name}: *(.*)$`, "im"))?.[1].trim();
      const start = end + 4, length = Number(field("content-length"));
      if (buffer.length < start + length) break;
      showPicture(decodeURIComponent(field("x-camera")), buffer.slice(start, start + length));
      buffer = buffer.slice(start + length);
    }
  }
}

async function showPicture(name, jpeg) {
  const shown = card(name);
  shown.next = jpeg;
  if (shown.busy) return; // the newest is taken up when the one before is drawn
  shown.busy = true;
  while (shown.next) {
    const blob = new Blob([shown.next], { type: "image/jpeg" });
    shown.next = null;
    const image = await createImageBitmap(blob).catch(() => null);
    if (!image) continue;
    if (shown.canvas.width !== image.width || shown.canvas.height !== image.height) {
      shown.canvas.width = image.width;
      shown.canvas.height = image.height;
    }
    shown.context.drawImage(image, 0, 0);
    image.close();
    shown.at = Date.now();
  }
  shown.busy = false;
}

// ---- only while somebody looks

function wake() {
  if (document.hidden) {
    pictures?.abort();
    source?.close();
    clearTimeout(retry);
    pictures = source = null;
  } else if (!source) {
    lastStatus = Date.now();
    for (const shown of cards.values()) shown.at = 0;
    pictures = new AbortController();
    watch(pictures);
    listen();
  }
}

setInterval(() => {
  if (document.hidden) return;
  cards.forEach(showVeil);
  if (Date.now() - lastStatus > GONE_MS) gone(true);
}, 1000);
document.addEventListener("visibilitychange", wake);
wake();
