// The operator's page in a real browser: load, filter, look, resolve, forget, back up, hostile
// keys, keyboard, read-only, and what axe says of it in light and dark.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import axe from "axe-core";
import { chromium } from "playwright-core";

const { ADMIN_URL, SCREENSHOTS, PROFILE } = process.env;
const ORIGIN = new URL(ADMIN_URL).origin;
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

let context;

before(async () => {
  context = await chromium.launchPersistentContext(PROFILE, {
    executablePath: "/usr/bin/chromium",
    headless: true,
    args: FLAGS,
    viewport: { width: 1280, height: 900 },
  });
});

after(() => context?.close());

// A page that is loaded, and the list of all that went wrong in it.
async function open(url = ADMIN_URL, scheme = "light") {
  const page = await context.newPage();
  await page.emulateMedia({ colorScheme: scheme });
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("console", (message) => message.type() === "error" && wrong.push(message.text()));
  page.on("dialog", (dialog) => {
    wrong.push(`a script ran: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", (request) => new URL(request.url()).origin === ORIGIN || wrong.push(`asked ${request.url()}`));
  await page.goto(url);
  await page.locator("#rows tr").first().waitFor();
  await page.locator("#plot svg").waitFor();
  return { page, wrong };
}

async function shoot(page, name) {
  if (SCREENSHOTS) await page.screenshot({ path: `${SCREENSHOTS}/${name}.png`, fullPage: true });
}

async function inspect(page, where) {
  // Past the page's policy, as a browser's own tools are.
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const found = violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.target).join(" ")}`);
  assert.deepEqual(found, [], where);
}

const names = (page) => page.locator("#rows td:first-child").allTextContents();
const choose = (page, name) => page.locator("#rows button", { hasText: name }).first().click();

test("it loads, and shows what is in flight and interrupted", async () => {
  const { page, wrong } = await open();
  assert.equal(await page.title(), "charges, demo · idempotency keys");
  assert.ok((await names(page)).includes("order-0040"));
  assert.match(await page.locator("#tiles").textContent(), /In flight3/);
  await page.getByText("In flight", { exact: true }).last().click();
  await page.locator("#count", { hasText: "3 keys in flight" }).waitFor();
  assert.match((await names(page)).join(), /payout-1/);
  assert.deepEqual(wrong, []);
  await page.close();
});

test("it filters by scope, prefix, hash and age", async () => {
  const { page, wrong } = await open();
  const show = async (fields) => {
    for (const name of ["scope", "prefix", "hash"]) await page.locator(`#filter [name=${name}]`).fill(fields[name] ?? "");
    await page.locator("#filter [name=older_s]").selectOption(fields.older_s ?? "");
    const answered = page.waitForResponse((response) => response.url().includes("/api/keys"));
    await page.getByRole("button", { name: "Show", exact: true }).click();
    await answered;
    await page.locator("#count", { hasText: fields.count }).waitFor();
    return names(page);
  };
  assert.deepEqual(await show({ scope: "refunds", prefix: "refund-", count: "1 key " }), ["refund-7"]);
  const hash = await page.locator("#rows td:nth-child(2)").first().textContent();
  assert.deepEqual(await show({ hash, count: "1 key " }), ["refund-7"]);
  assert.deepEqual(await show({ prefix: "no text: \\xff", count: "1 key " }), ["no text: \\xff\\xfe\\x80"]);
  assert.deepEqual(await show({ older_s: "86400", count: "No key" }), []);
  assert.deepEqual(wrong, []);
  await page.close();
});

test("hostile keys are text, wherever they are shown", async () => {
  const { page, wrong } = await open();
  for (const part of ["<script>", "onerror", "\\u{202e}", "nul\\u{0}", "\\xff\\xfe", "onfocus", "long-long"]) {
    await choose(page, part);
    await page.locator("#shown dl", { hasText: part }).waitFor();
    await page.getByRole("button", { name: "Forget…" }).click();
    assert.match(await page.locator("#forget [data-name]").textContent(), new RegExp(RegExp.escape?.(part) ?? part.replace(/[\\{}<>]/g, "\\$&")));
    await page.keyboard.press("Escape");
  }
  assert.equal(await page.title(), "charges, demo · idempotency keys");
  assert.equal(await page.locator("#rows script, #shown script, main img, [onfocus], [onerror]").count(), 0);
  assert.ok(!(await page.locator("main").textContent()).includes("\u202e"));
  await shoot(page, "hostile");
  assert.deepEqual(wrong, []);
  await page.close();
});

test("a key is resolved with a reason, after a confirmation", async () => {
  const { page, wrong } = await open();
  await choose(page, "order-0040");
  await page.locator("#shown pre", { hasText: "auth_81723" }).waitFor();
  await page.getByRole("button", { name: "Resolve…" }).click();
  const dialog = page.getByRole("dialog", { name: "Resolve this key" });
  await dialog.getByLabel("It took effect").check();
  await dialog.getByLabel("A response of the HTTP layer").check();
  await dialog.getByLabel("Status").fill("201");
  await dialog.getByLabel("Body").fill('{"id":"ch_40"}');
  await dialog.getByLabel("Reason").fill("The bank's report of today has it <b>");
  await shoot(page, "resolve");
  await inspect(page, "the dialog");
  // Without the confirmation nothing is sent.
  await dialog.getByRole("button", { name: "Resolve key" }).click();
  assert.ok(await dialog.isVisible());
  await dialog.getByLabel("I have checked this").check();
  await dialog.getByRole("button", { name: "Resolve key" }).click();
  await page.getByRole("status").getByText("resolved as completed").waitFor();
  const shown = await page.locator("#shown").textContent();
  assert.match(shown, /status 201/);
  assert.match(shown, /resolved as completed by demo/);
  assert.match(shown, /The bank's report of today has it <b>/);
  assert.ok(!(await names(page)).includes("order-0040"));
  await shoot(page, "resolved");
  assert.deepEqual(wrong, []);
  await page.close();
});

const hold = (page, key) => holdAll(page, isOfKey(key));
const isOfKey = (key) => (url) => url.pathname.endsWith("/api/key") && url.searchParams.get("key") === key;

// Holds answers back. Gives what lets them go, and waits until the page has one.
async function holdAll(page, isOf, answer = (route) => route.continue()) {
  let letGo;
  const held = new Promise((resolve) => (letGo = resolve));
  await page.route(isOf, async (route) => {
    await held;
    await answer(route);
  });
  return async () => {
    const answered = page.waitForResponse((response) => isOf(new URL(response.url())));
    letGo();
    await (await answered).finished();
    await page.evaluate(() => new Promise((resolve) => setTimeout(() => requestAnimationFrame(resolve))));
  };
}

const show = async (page, key) => {
  await choose(page, key);
  await page.locator("#shown dl", { hasText: key }).waitFor();
};
const stateOf = (page, key) =>
  page.evaluate(async ([base, asked]) => (await (await fetch(base + "/api/key?" + asked)).json()).state, [
    ADMIN_URL, new URLSearchParams({ scope: "POST /v1/charges", key }).toString(),
  ]);

async function resolveAsBytes(page) {
  const dialog = page.getByRole("dialog", { name: "Resolve this key" });
  await dialog.getByLabel("It took effect").check();
  await dialog.getByLabel("Bytes, for a service").check();
  await dialog.getByLabel("Reason").fill("the bank has it");
  await dialog.getByLabel("I have checked this").check();
  await dialog.getByRole("button", { name: "Resolve key" }).click();
}

test("a key that was resolved and is read again late is not the one that a dialog forgets", async () => {
  const { page, wrong } = await open();
  await show(page, "order-0041");
  const letGo = await hold(page, "order-0041");
  await page.getByRole("button", { name: "Resolve…" }).click();
  const read = page.waitForRequest((request) => request.url().includes("key=order-0041"));
  await resolveAsBytes(page);
  await read;
  await show(page, "order-0042");
  await page.getByRole("button", { name: "Forget…" }).click();
  await letGo();
  const dialog = page.getByRole("dialog", { name: "Forget this key" });
  assert.match(await dialog.locator("[data-name]").textContent(), /order-0042/);
  await dialog.getByLabel("Reason").fill("asked for twice");
  await dialog.getByLabel("The operation may run again").check();
  await dialog.getByRole("button", { name: "Forget key" }).click();
  await page.getByRole("status").getByText("forgotten").waitFor();
  assert.deepEqual([await stateOf(page, "order-0041"), await stateOf(page, "order-0042")], ["done", "vacant"]);
  assert.deepEqual(wrong, []);
  await page.close();
});

test("a dialog resolves the key that it names, though the page shows another by then", async () => {
  const { page, wrong } = await open();
  await show(page, "order-0043");
  const letGo = await hold(page, "order-0044");
  await choose(page, "order-0044");
  await page.getByRole("button", { name: "Resolve…" }).click();
  assert.match(await page.locator("#resolve [data-name]").textContent(), /order-0043/);
  await letGo();
  await page.locator("#shown dl", { hasText: "order-0044" }).waitFor();
  await resolveAsBytes(page);
  await page.getByRole("status").getByText("resolved as completed").waitFor();
  assert.deepEqual([await stateOf(page, "order-0043"), await stateOf(page, "order-0044")], ["done", "interrupted"]);
  assert.match(await page.locator("#shown dl").textContent(), /order-0044/);
  assert.deepEqual(wrong, []);
  await page.close();
});

test("the page shows the key that was asked for last, in whichever order answers come", async () => {
  const { page, wrong } = await open();
  const letGo = await hold(page, "order-0044");
  await choose(page, "order-0044");
  await show(page, "refund-7");
  await letGo();
  assert.match(await page.locator("#shown dl").textContent(), /refund-7/);
  assert.match(await page.locator("#rows .chosen").textContent(), /refund-7/);
  assert.deepEqual(wrong, []);
  await page.close();
});

test("more of a list is added to that list alone, and keeps no other list away", async () => {
  const { page, wrong } = await open();
  let first;
  const isList = (fits) => (url) => url.pathname.endsWith("/api/keys") && fits(url.searchParams);
  await page.route(isList((asked) => !asked.has("prefix") && !asked.has("after")), async (route) => {
    const response = await route.fetch();
    const list = await response.json();
    first = list.keys[0];
    await route.fulfill({ response, json: { ...list, next: "more" } });
  });
  await page.getByRole("button", { name: "Show", exact: true }).click();
  await page.locator("#more").waitFor();
  const isMore = isList((asked) => asked.has("after"));
  const isFilter = isList((asked) => asked.get("prefix") === "refund-");
  const letMoreGo = await holdAll(page, isMore, (route) => route.fulfill({ json: { keys: [first], next: null } }));
  const letFilterGo = await holdAll(page, isFilter);
  const asked = (isOf) => page.waitForRequest((request) => isOf(new URL(request.url())));
  await page.locator("#filter [name=prefix]").fill("refund-");
  await Promise.all([asked(isFilter), page.getByRole("button", { name: "Show", exact: true }).click()]);
  await Promise.all([asked(isMore), page.locator("#more").click()]);
  await letFilterGo();
  await page.locator("#count", { hasText: "1 key " }).waitFor();
  await letMoreGo();
  assert.deepEqual(await names(page), ["refund-7"]);
  assert.deepEqual(wrong, []);
  await page.close();
});

const fail = (route) => route.fulfill({ status: 503, json: { detail: "The disk is full." } });

test("a key that can't be read does not keep the one that is shown from being read again", async () => {
  const { page } = await open();
  await show(page, "order-0044");
  await page.route(isOfKey("refund-7"), fail);
  await choose(page, "refund-7");
  await page.getByRole("alert").getByText("The disk is full").waitFor();
  await page.getByRole("button", { name: "Resolve…" }).click();
  await resolveAsBytes(page);
  await page.getByRole("status").getByText("resolved as completed").waitFor();
  assert.match(await page.locator("#shown").textContent(), /order-0044.*resolved as completed by demo/);
  await page.close();
});

test("an error of a change whose dialog was closed names its key", async () => {
  const { page } = await open();
  await show(page, "refund-7");
  const hash = await page.locator("#rows .chosen td:nth-child(2)").textContent();
  const isChange = (url) => url.pathname.endsWith("/api/forget");
  const letGo = await holdAll(page, isChange, fail);
  await page.getByRole("button", { name: "Forget…" }).click();
  const dialog = page.getByRole("dialog", { name: "Forget this key" });
  await dialog.getByLabel("Reason").fill("asked for twice");
  await dialog.getByLabel("The operation may run again").check();
  const sent = page.waitForRequest((request) => isChange(new URL(request.url())));
  await Promise.all([sent, dialog.getByRole("button", { name: "Forget key" }).click()]);
  await page.keyboard.press("Escape");
  await letGo();
  await page.getByRole("alert").getByText(`Key ${hash}: The disk is full.`).waitFor();
  await page.close();
});

test("a key is forgotten by keyboard alone, and a backup made", async () => {
  const { page, wrong } = await open();
  await page.locator("#rows button", { hasText: "refund-7" }).focus();
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Forget…" }).focus();
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: "Forget this key" }).waitFor();
  await page.keyboard.type("asked for twice");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Space");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.getByRole("status").getByText("forgotten").waitFor();
  assert.match(await page.locator("#shown").textContent(), /vacant.*forgotten by demo.*asked for twice/);
  await page.getByRole("button", { name: "Back up" }).click();
  await page.getByRole("status").getByText(/Backup backup-\d+\.idem is made/).waitFor();
  assert.deepEqual(wrong, []);
  await page.close();
});

test("an error of the service is said, and nothing else is lost", async () => {
  const { page } = await open();
  await page.locator("#lookup [name=key]").fill("\\q");
  await page.getByRole("button", { name: "Look up" }).click();
  await page.getByRole("alert").getByText("an escape is").waitFor();
  assert.ok((await names(page)).length > 0);
  await page.close();
});

test("what only looks has no button that changes", async () => {
  const { page, wrong } = await open(`${ORIGIN}/look`);
  await choose(page, "onerror");
  await page.locator("#shown dl").waitFor();
  assert.equal(await page.getByRole("button", { name: /Resolve|Forget|Back up/ }).count(), 0);
  assert.match(await page.locator("#mode").textContent(), /read-only/);
  assert.deepEqual(wrong, []);
  await page.close();
});

test("another site can't change anything, with the operator's browser", async () => {
  const { page } = await open();
  const body = { scope: "", key: "k", state: "interrupted", fence: 1, reason: "forged" };
  const elsewhere = ADMIN_URL.replace("127.0.0.1", "localhost");
  const ask = (url, headers) =>
    page.evaluate(
      ([url, headers, body]) => fetch(url, { method: "POST", headers, body, mode: headers["idemkv-admin"] ? "cors" : "no-cors" }).then((answer) => answer.status, () => "refused"),
      [url + "/api/forget", headers, JSON.stringify(body)],
    );
  assert.equal(await ask(ADMIN_URL, { "content-type": "text/plain" }), 403);
  await page.goto(elsewhere);
  await page.locator("#rows tr").first().waitFor();
  assert.equal(await ask(ADMIN_URL, { "content-type": "application/json", "idemkv-admin": "1" }), "refused");
  await page.close();
});

for (const scheme of ["light", "dark"]) {
  test(`axe finds no error (${scheme})`, async () => {
    const { page, wrong } = await open(ADMIN_URL, scheme);
    await choose(page, "onerror");
    await page.locator("#shown dl").waitFor();
    await inspect(page, scheme);
    await shoot(page, scheme);
    await page.setViewportSize({ width: 390, height: 844 });
    await inspect(page, `${scheme}, narrow`);
    if (scheme === "dark") await shoot(page, "narrow");
    await page.setViewportSize({ width: 1280, height: 900 });
    await page.getByRole("button", { name: "Forget…" }).click();
    await inspect(page, `${scheme}, dialog`);
    assert.deepEqual(wrong, []);
    await page.close();
  });
}
