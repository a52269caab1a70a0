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
  const body = { scope: "", key: "k", fence: 1, reason: "forged" };
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
