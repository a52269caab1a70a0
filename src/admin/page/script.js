// The operator's page. Keys, scopes, results and reasons are hostile input: they reach the page as
// text nodes and values of fields, never as markup. The policy of the server forbids anything else.

const base = document.documentElement.dataset.base;
const $ = (id) => document.getElementById(id);
const EVERY_MS = 10_000;
const SERIES = [
  ["fresh", "granted"],
  ["replayed", "replayed"],
  ["waited", "in flight elsewhere"],
  ["refused", "refused"],
];

// What the page shows.
const state = { overview: null, keys: [], next: null, asked: "", chosen: null, shown: null };

// What each dialog changes: the key as it was shown when the dialog was opened. The page may show
// another key by the time the change is sent.
const targets = { resolve: null, forget: null };

// ---- the server

async function ask(path, options = {}) {
  const response = await fetch(base + "api/" + path, { credentials: "same-origin", cache: "no-store", ...options });
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Error(body?.detail ?? body?.title ?? `The service answered ${response.status}.`);
  return body;
}

// How often each thing was asked for.
const turns = { key: 0, keys: 0, more: 0 };

// The answer to a question, or null if a later one of its kind was asked since: answers come in any
// order.
async function askLast(kind, path) {
  turns[kind] += 1;
  const turn = turns[kind];
  try {
    const answer = await ask(path);
    return turn === turns[kind] ? answer : null;
  } catch (error) {
    if (turn === turns[kind]) throw error;
    return null;
  }
}

const change = (path, body) =>
  ask(path, {
    method: "POST",
    headers: { "content-type": "application/json", "idemkv-admin": "1" },
    body: JSON.stringify(body),
  });

function say(text) {
  $("status").replaceChildren(text ? make("p", { class: "notice" }, text) : "");
}

function complain(error) {
  $("error").replaceChildren(error ? make("p", { class: "notice bad" }, error.message ?? String(error)) : "");
}

// ---- elements

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  element.append(...children);
  return element;
}

function draw(name, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  element.textContent = text;
  return element;
}

// ---- values

const SPANS = [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1_000]];

// A span in its two largest units.
function span(ms) {
  let left = Math.max(0, ms);
  const parts = [];
  for (const [unit, size] of SPANS) {
    const count = Math.floor(left / size);
    left -= count * size;
    if (count > 0) parts.push(`${count} ${unit}`);
    if (parts.length === 2 || (parts.length === 1 && count === 0)) break;
  }
  return parts.join(" ") || "0 s";
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let at = 0;
  while (bytes >= 10_240 && at < 3) {
    bytes /= 1_024;
    at += 1;
  }
  return `${Math.round(bytes).toLocaleString("en")} ${units[at]}`;
}

const count = (number) => number.toLocaleString("en");
const date = (ms) => new Date(ms).toISOString().replace("T", " ").replace(".000Z", "Z");
const ago = (ms) => span(state.overview.now_ms - ms);
const duration = ({ secs, nanos }) => secs * 1_000 + nanos / 1e6;
const shorten = (text) => (text.length > 120 ? text.slice(0, 100) + "…" : text);

// ---- now

async function showNow() {
  const overview = await ask("overview");
  state.overview = overview;
  const stats = overview.stats;
  const bad = stats.has_failed ? "stopped after a failure" : stats.is_disk_full ? "disk full" : stats.is_file_not_ready ? "file not ready" : "";
  $("health").textContent = bad || "healthy";
  $("health").className = bad ? "badge bad" : "badge good";
  $("mode").textContent = overview.may_change ? overview.operator : "read-only";
  $("backup").hidden = !overview.may_back_up;
  const tiles = [
    ["In flight", count(stats.in_flight)],
    ["Interrupted", count(stats.interrupted), stats.interrupted > 0],
    ["Oldest interruption", stats.interrupted > 0 ? span(duration(stats.interrupted_longest)) : "none"],
    ["Keys", count(stats.entries)],
    ["File and log", size(stats.file_bytes + stats.log_bytes)],
  ];
  $("tiles").replaceChildren(
    ...tiles.map(([name, value, alarm]) => make("div", alarm ? { class: "alarm" } : {}, make("dt", {}, name), make("dd", {}, value))),
  );
}

// ---- answers

// What was answered in each of the last 60 minutes, from counters that only grow.
function minutes(samples) {
  const end = samples.at(-1).at_ms;
  const slots = Array.from({ length: 60 }, () => ({ fresh: 0, replayed: 0, waited: 0, refused: 0 }));
  for (let at = 1; at < samples.length; at += 1) {
    const slot = slots[59 - Math.floor((end - samples[at].at_ms) / 60_000)];
    if (!slot) continue;
    for (const [name] of SERIES) slot[name] += Math.max(0, samples[at][name] - samples[at - 1][name]);
  }
  return { slots, end, start: samples[0].at_ms };
}

// The least of 1, 2 and 5 times a power of ten that is no less.
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, value)));
  return [1, 2, 5, 10].map((times) => times * power).find((top) => top >= value) ?? value;
}

async function showAnswers() {
  const { samples } = await ask("answers");
  const { slots, end, start } = minutes(samples);
  const totals = SERIES.map(([name, label]) => [name, label, slots.reduce((sum, slot) => sum + slot[name], 0)]);
  $("legend").replaceChildren(
    ...totals.map(([name, label, total]) =>
      make("li", {}, make("span", { class: `swatch ${name}`, "aria-hidden": "true" }), `${label} `, make("strong", {}, count(total)))),
  );
  $("plot").replaceChildren(plot(slots, end, start, totals));
  const covered = end - start;
  $("plot-note").textContent = covered < 3_540_000 ? `Noted for ${span(covered)} so far.` : "";
}

function plot(slots, end, start, totals) {
  const width = Math.max(280, $("plot").clientWidth);
  const [height, left, bottom, top] = [190, 44, 22, 8];
  const sum = (slot) => SERIES.reduce((all, [name]) => all + slot[name], 0);
  const highest = ceiling(Math.max(1, ...slots.map(sum)));
  const across = (width - left) / 60;
  const y = (value) => height - bottom - (value / highest) * (height - bottom - top);
  const words = totals.map(([, label, total]) => `${count(total)} ${label}`).join(", ");
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Answers for each minute of the last hour. In all: ${words}. At most ${count(Math.max(...slots.map(sum)))} in a minute.` });
  const unknown = Math.max(0, Math.min(60, 60 - Math.ceil((end - start) / 60_000)));
  svg.append(draw("rect", { class: "early", x: left, y: top, width: unknown * across, height: height - bottom - top }));
  for (const value of [0, highest / 2, highest]) {
    svg.append(draw("line", { x1: left, x2: width, y1: y(value), y2: y(value) }));
    if (Number.isInteger(value)) svg.append(draw("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, count(value)));
  }
  slots.forEach((slot, at) => {
    let below = 0;
    for (const [name] of SERIES) {
      if (slot[name] === 0) continue;
      const to = below + slot[name];
      svg.append(draw("rect", { class: name, x: left + at * across + across / 10, width: across * 0.8, y: y(to), height: y(below) - y(to) }));
      below = to;
    }
  });
  for (let ago = 0; ago <= 60; ago += width < 600 ? 20 : 10) {
    const time = new Date(end - ago * 60_000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
    const anchor = ago === 0 ? "end" : ago === 60 ? "start" : "middle";
    svg.append(draw("text", { x: left + (60 - ago) * across, y: height - 5, "text-anchor": anchor }, time));
  }
  return svg;
}

// ---- the list

function wanted() {
  const asked = new URLSearchParams();
  for (const [name, value] of new FormData($("filter"))) if (value !== "") asked.set(name, value);
  return asked;
}

async function showKeys() {
  const asked = wanted().toString();
  const page = await askLast("keys", "keys?" + asked);
  if (!page) return;
  state.asked = asked;
  state.keys = page.keys;
  state.next = page.next;
  drawKeys();
}

async function showMore() {
  const asked = new URLSearchParams(state.asked);
  asked.set("after", state.next);
  const keys = state.keys;
  const page = await askLast("more", "keys?" + asked);
  // It goes on with the list that it was asked for, and with no other.
  if (!page || keys !== state.keys) return;
  const first = keys.length;
  keys.push(...page.keys);
  state.next = page.next;
  drawKeys();
  $("rows").children[first]?.querySelector("button").focus();
}

function drawKeys() {
  const rows = state.keys.map((key) => {
    const button = make("button", { type: "button", class: "link" }, shorten(key.key));
    button.addEventListener("click", () => attempt(() => showKey(key.scope, key.key, true)));
    const isChosen = isSame(key, state.shown);
    return make(
      "tr",
      isChosen ? { class: "chosen" } : {},
      make("td", { class: "name" }, button),
      make("td", { class: "code" }, key.hash),
      make("td", { class: "name" }, shorten(key.scope)),
      make("td", {}, String(key.attempt)),
      make("td", {}, ago(key.since_ms)),
    );
  });
  $("rows").replaceChildren(...rows);
  $("more").hidden = state.next === null;
  const kind = new URLSearchParams(state.asked).get("state") === "in-flight" ? "in flight" : "interrupted";
  const some = state.keys.length === 0 ? "No key" : state.keys.length === 1 ? "1 key" : `${count(state.keys.length)} keys`;
  $("count").textContent = `${some} ${kind}${state.next === null ? "" : ", and perhaps more"}, the oldest first`;
}

// ---- one key

const isSame = (one, other) => one.scope === other?.scope && one.key === other?.key;

async function showKey(scope, key, moves) {
  state.chosen = { scope, key };
  const asked = askLast("key", "key?" + new URLSearchParams({ scope, key }));
  const details = await asked.catch((error) => {
    state.chosen = state.shown;
    throw error;
  });
  if (!details) return;
  state.chosen = state.shown = details;
  const [scopeField, keyField] = [$("lookup").elements.scope, $("lookup").elements.key];
  [scopeField.value, keyField.value] = [details.scope, details.key];
  drawDetails(details);
  drawKeys();
  if (moves) $("detail").focus();
}

function drawDetails(details) {
  const facts = make("dl", { class: "facts" });
  const add = (name, value, code) => {
    if (value === undefined || value === null) return;
    facts.append(make("dt", {}, name), make("dd", code ? { class: "code" } : {}, String(value)));
  };
  const at = (ms) => ms && `${date(ms)} (${ago(ms)} ago)`;
  add("State", details.state.replace("-", " "));
  add("Key", details.key, true);
  add("Scope", details.scope || "the default scope", details.scope !== "");
  add("Hash", details.hash, true);
  add("Attempt", details.attempt);
  add("Fence", details.fence);
  add("Started", at(details.started_ms));
  if (details.state === "interrupted") add("Interrupted", at(details.since_ms));
  if (details.outcome) add("Ended", `${details.outcome}, ${at(details.since_ms)}`);
  add("Replayed until", details.expires_ms && date(details.expires_ms));
  const parts = [facts];
  if (details.progress) parts.push(...bytes("Progress", details.progress));
  if (details.response) {
    const { status, headers, body } = details.response;
    const head = [`status ${status}`, ...headers.map(([name, value]) => `${name}: ${value}`)].join("\n");
    parts.push(make("h3", {}, "Stored response"), block(head, "Head of the stored response"));
    parts.push(...(body ? bytes("Its body", body) : [make("p", { class: "muted" }, "Its body was not kept.")]));
  }
  if (details.body) parts.push(...bytes("Stored result", details.body));
  const actions = make("div", { class: "actions" });
  if (state.overview.may_change && details.state === "interrupted") {
    actions.append(action("Resolve…", "primary", () => openDialog("resolve", details)));
  }
  if (state.overview.may_change && !["vacant", "in-flight"].includes(details.state)) {
    actions.append(action("Forget…", "danger", () => openDialog("forget", details)));
  }
  if (actions.children.length > 0) parts.push(actions);
  if (details.changes.length > 0) {
    const list = details.changes.map((made) =>
      make("li", {}, make("p", { class: "muted" }, `${date(made.at_ms)} · ${made.did} by ${made.operator}`), make("p", {}, made.reason)));
    parts.push(make("h3", {}, "Changed by operators"), make("ul", { class: "changes" }, ...list));
  }
  $("shown").replaceChildren(...parts);
}

const block = (text, label) => make("pre", { tabindex: "0", role: "region", "aria-label": label }, text);

function bytes(name, shown) {
  const cut = shown.is_cut ? ", the start of it" : "";
  const title = make("h3", {}, `${name} (${count(shown.bytes)} bytes${cut})`);
  return shown.bytes === 0 ? [title] : [title, block(shown.text, name)];
}

function action(text, kind, run) {
  const button = make("button", { type: "button", class: kind }, text);
  button.addEventListener("click", run);
  return button;
}

// ---- changes

function openDialog(name, details) {
  targets[name] = details;
  const dialog = $(name);
  const form = dialog.querySelector("form");
  form.reset();
  dialog.querySelector("[data-name]").textContent = `${shorten(details.key)} (${details.hash})`;
  dialog.querySelector("[data-problem]").hidden = true;
  if (name === "resolve") showChoices();
  dialog.showModal();
}

function showChoices() {
  const fields = $("resolve-form").elements;
  const outcome = fields.outcome.value;
  const hasResult = outcome === "completed" || outcome === "failed";
  $("result").hidden = !hasResult;
  for (const radio of fields.form) radio.required = hasResult;
  $("response-head").hidden = fields.form.value !== "response";
  fields.status.disabled = !hasResult || fields.form.value !== "response";
  const word = outcome === "completed" ? "success" : "failure";
  $("effect").textContent = hasResult
    ? `Retries get this result as a ${word}, for ${span(targets.resolve.ttl_ms)}.`
    : outcome ? "The next request with this key runs the operation, as the first." : "";
}

function forgetting() {
  const { scope, key, state, fence } = targets.forget;
  return { scope, key, state, fence, reason: $("forget-form").elements.reason.value };
}

function resolution() {
  const fields = $("resolve-form").elements;
  const { scope, key, state, fence } = targets.resolve;
  const asked = { scope, key, state, fence, reason: fields.reason.value, outcome: fields.outcome.value };
  if (asked.outcome === "did-not-happen") return asked;
  const body = fields.body.value;
  const response = { form: "response", status: Number(fields.status.value), content_type: fields.content_type.value, body };
  return { ...asked, result: fields.form.value === "response" ? response : { form: "bytes", body } };
}

// Sends the change of a dialog, and closes it when that is done. Meanwhile the operator may have
// gone on to another key.
async function carryOut(name, body) {
  const dialog = $(name);
  const [button, problem] = [dialog.querySelector("[type=submit]"), dialog.querySelector("[data-problem]")];
  if (button.disabled) return;
  const target = targets[name];
  const isOpen = () => dialog.open && targets[name] === target;
  button.disabled = true;
  problem.hidden = true;
  let did;
  try {
    ({ did } = await change(name, body()));
  } catch (error) {
    if (!isOpen()) throw new Error(`Key ${target.hash}: ${error.message}`);
    problem.textContent = error.message;
    problem.hidden = false;
    return;
  } finally {
    button.disabled = false;
  }
  if (isOpen()) dialog.close();
  try {
    await refresh();
    if (isSame(target, state.chosen)) await showKey(target.scope, target.key, true);
  } finally {
    say(`Key ${target.hash} is ${did}.`);
  }
}

async function backUp() {
  $("backup").disabled = true;
  say("The backup is being made.");
  try {
    const made = await change("backup", {});
    say(`Backup ${made.file} is made: ${size(made.bytes)}.`);
  } catch (error) {
    say("");
    throw error;
  } finally {
    $("backup").disabled = false;
  }
}

// ---- events

let complainer = null;

async function attempt(run, by = "person") {
  try {
    await run();
    // The timer takes back its own complaint alone.
    if (by === "person" || by === complainer) complain(null);
  } catch (error) {
    complain(error);
    complainer = by;
  }
}

async function refresh() {
  await showNow();
  await Promise.all([showAnswers(), showKeys()]);
}

function on(element, event, run) {
  element.addEventListener(event, (happened) => {
    happened.preventDefault();
    attempt(run);
  });
}

on($("filter"), "submit", refresh);
for (const radio of $("filter").elements.state) radio.addEventListener("change", () => attempt(refresh));
$("filter").elements.older_s.addEventListener("change", () => attempt(refresh));
on($("more"), "click", showMore);
on($("lookup"), "submit", () => showKey($("lookup").elements.scope.value, $("lookup").elements.key.value, true));
on($("backup"), "click", backUp);
on($("resolve-form"), "submit", () => carryOut("resolve", resolution));
on($("forget-form"), "submit", () => carryOut("forget", forgetting));
$("resolve-form").addEventListener("change", showChoices);
for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}

// The list stays as it is, so that no row moves under a pointer; "Show" reads it again.
setInterval(() => {
  if (document.visibilityState === "visible") attempt(async () => { await showNow(); await showAnswers(); }, "timer");
}, EVERY_MS);

attempt(refresh);
