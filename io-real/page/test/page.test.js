// The demo page in a real browser, against a real server: what a person would try in the first minute.
import assert from "node:assert/strict";
import { mkdtemp, mkdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { startServer } from "./server.js";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
const PICTURES = process.env.PICTURES;

let server, browser, profile;

before(async () => {
  server = await startServer();
  profile = await mkdtemp(join(tmpdir(), "tigerchat-page-"));
  // One browser with one profile: its windows share storage, as a person's do.
  browser = await chromium.launchPersistentContext(profile, { executablePath: CHROMIUM, args: FLAGS, viewport: { width: 1180, height: 760 } });
  browser.setDefaultTimeout(15000);
  if (PICTURES) await mkdir(PICTURES, { recursive: true });
});

after(async () => {
  await browser?.close();
  await server?.stop();
  if (profile) await rm(profile, { recursive: true, force: true });
});

async function open(hash = "", context = browser) {
  const page = await context.newPage();
  page.troubles = [];
  page.on("pageerror", (error) => page.troubles.push(String(error)));
  page.on("console", (message) => message.type() === "error" && page.troubles.push(message.text()));
  await page.goto(server.url + hash);
  await online(page);
  return page;
}

const online = (page) => page.locator("#state[data-state=online]").waitFor();
// One person of "Here now", by the whole name: a name may begin another, which stays until its connection is gone.
const person = (page, name) => page.locator(`#people li[data-user="${name}"]`);
const nameOf = (page) => page.locator("#name").inputValue();
const said = (page, text) => page.locator(".message:not(.waiting)").filter({ hasText: text });
const texts = (page) => page.locator(".message:not(.waiting) .text").allTextContents();
const picture = (page, name) => PICTURES && page.screenshot({ path: join(PICTURES, `${name}.png`) });

async function say(page, text) {
  await page.locator("#text").fill(text);
  await page.locator("#text").press("Enter");
}

test("two windows talk, see each other, and see who leads", async () => {
  const [ada, ben] = [await open(), await open()];
  const names = [await nameOf(ada), await nameOf(ben)];
  assert.notEqual(names[0], names[1], "each window has a name of its own");

  await say(ada, "Hello from the first window");
  await said(ben, "Hello from the first window").waitFor();
  await say(ben, "Hello back, <b>unharmed</b> & \"quoted\" — 🐯");
  await said(ada, "Hello back, <b>unharmed</b> & \"quoted\" — 🐯").waitFor();
  assert.deepEqual(await texts(ada), await texts(ben), "both see the same, in the same order");

  for (const page of [ada, ben]) {
    for (const name of names) await person(page, name).waitFor();
    await page.locator("#people .you").waitFor();
    await page.locator("#replicas .leads").waitFor();
    assert.match(await page.locator("#leader").textContent(), /^replica \d$/);
    assert.match(await page.locator("#view").textContent(), /^\d+$/);
  }
  await picture(ada, "two-windows");

  await ben.close();
  await person(ada, names[1]).waitFor({ state: "detached" });
  assert.deepEqual(ada.troubles, []);
  await ada.close();
});

test("every message shows its sequence number and a chain that the page has proved", async () => {
  const page = await open("#proofs");
  for (const text of ["one", "two", "three"]) await say(page, text);
  await said(page, "three").waitFor();
  assert.deepEqual(await page.locator(".message .seq").allTextContents(), ["#1", "#2", "#3"]);
  await page.locator(".message .mark[data-proof]").nth(2).waitFor();
  const proofs = await page.locator(".message .mark").evaluateAll((marks) => marks.map((mark) => mark.dataset.proof));
  assert.deepEqual(proofs, ["good", "good", "good"]);
  const chains = await page.locator(".message .chain").allTextContents();
  assert.ok(chains.every((chain) => /^[0-9a-f]{8}$/.test(chain)) && new Set(chains).size === 3, chains.join());

  await page.locator(".message .proof").first().click();
  const detail = page.locator(".message .detail");
  await detail.waitFor();
  assert.match(await detail.textContent(), new RegExp(`chain${chains[0]}[0-9a-f]{56}`));
  await picture(page, "proof");
  assert.deepEqual(page.troubles, []);
  await page.close();
});

test("a reload shows the history and keeps the name", async () => {
  const page = await open("#reload");
  const name = await nameOf(page);
  for (let number = 1; number <= 55; number++) await say(page, `message ${number}`);
  await said(page, "message 55").waitFor();
  await page.locator(".waiting").first().waitFor({ state: "detached" });
  await page.reload();
  await online(page);
  await said(page, "message 55").waitFor();
  assert.equal(await nameOf(page), name);
  const expected = Array.from({ length: 50 }, (_, index) => `message ${index + 6}`);
  assert.deepEqual(await texts(page), expected, "the newest fifty, in order");
  await page.locator(".message .mark[data-proof]").nth(49).waitFor();
  assert.equal(await page.locator(".message .mark[data-proof=good]").count(), 50);
  await page.locator("#earlier").click();
  await page.locator("#earlier").waitFor({ state: "detached" });
  assert.deepEqual((await texts(page)).slice(0, 7), Array.from({ length: 7 }, (_, index) => `message ${index + 1}`));
  await page.locator(".message .mark[data-proof]").nth(54).waitFor();
  assert.equal(await page.locator(".message .mark[data-proof=good]").count(), 55);
  await page.close();
});

test("what is said without a connection is sent once, when there is one again", async () => {
  const page = await open("#outbox");
  await say(page, "before");
  await said(page, "before").waitFor();
  await page.evaluate(() => connection.lost(1500));
  await page.locator("#state[data-state=offline]").waitFor();
  await say(page, "meanwhile");
  await page.locator(".waiting").filter({ hasText: "meanwhile" }).waitFor();
  await online(page);
  await said(page, "meanwhile").waitFor();
  await page.locator(".waiting").waitFor({ state: "detached" });
  // The same letter again, as after a lost answer: the key was used, so nothing is added.
  await say(page, "after");
  await said(page, "after").waitFor();
  assert.deepEqual(await texts(page), ["before", "meanwhile", "after"]);
  await page.close();
});

test("the same key twice is one message", async () => {
  const page = await open("#twice");
  const answers = await page.evaluate(async () => {
    const letter = { room: "twice", key: mintKey(connection.now()), body: { text: "only once" } };
    return [await connection.call("publish", letter), await connection.call("publish", letter)];
  });
  await said(page, "only once").waitFor();
  assert.deepEqual([answers[0].duplicate, answers[1].duplicate], [false, true]);
  assert.equal(answers[0].seq, answers[1].seq);
  await say(page, "done");
  await said(page, "done").waitFor();
  assert.deepEqual(await texts(page), ["only once", "done"]);
  await page.close();
});

test("rooms are apart, and one can go from one to another", async () => {
  const page = await open("#left");
  await say(page, "said on the left");
  await said(page, "said on the left").waitFor();
  await page.locator("#room").fill("right");
  await page.locator("#room").press("Enter");
  await page.locator("#title").filter({ hasText: "right" }).waitFor();
  await say(page, "said on the right");
  await said(page, "said on the right").waitFor();
  assert.deepEqual(await texts(page), ["said on the right"]);
  await page.locator("#rooms button").filter({ hasText: "left" }).click();
  await said(page, "said on the left").waitFor();
  assert.deepEqual(await texts(page), ["said on the left"]);
  await page.locator("#room").fill("no such room!");
  await page.locator("#room").press("Enter");
  assert.equal(await page.locator("#room").evaluate((input) => input.validity.valid), false);
  await page.close();
});

test("a name can be chosen, and one that is refused can be changed", async () => {
  const page = await open("#names");
  await page.locator("#name").fill("Zoë of the North");
  await page.locator("#name").press("Enter");
  await person(page, "Zoë-of-the-North").waitFor();
  await say(page, "my own name");
  await said(page, "my own name").waitFor();
  assert.equal(await page.locator(".message .who").textContent(), "Zoë-of-the-North");
  await page.locator(".waiting").waitFor({ state: "detached" });
  await page.locator("#name").fill("ü".repeat(40));
  await page.locator("#name").press("Enter");
  await page.locator(".notice").filter({ hasText: "10005" }).waitFor();
  await page.locator("#state[data-state=offline]").waitFor();
  await page.locator("#name").fill("Zoë");
  await page.locator("#name").press("Enter");
  await online(page);
  await person(page, "Zoë").waitFor();
  await person(page, "Zoë-of-the-North").waitFor({ state: "detached" });
  await page.close();
});

test("a page that was tampered with shows it", async () => {
  const page = await open("#tampered");
  const verdict = await page.evaluate(async () => {
    await connection.call("publish", { room: "tampered", key: mintKey(connection.now()), body: { text: "a" } });
    const { epoch, messages: [event] } = await connection.call("history", { room: "tampered", limit: 1 });
    const room = Object.assign(new Room("tampered"), { epoch });
    const forged = { ...event, body: { text: "b" }, raw: '{"text":"b"}' };
    return [await room.prove(null, event), await room.prove(null, forged)];
  });
  assert.deepEqual(verdict, ["good", "bad"]);
  await page.close();
});

test("it fits a phone, in the dark", async () => {
  const page = await open("#phone");
  await page.setViewportSize({ width: 390, height: 780 });
  await page.emulateMedia({ colorScheme: "dark" });
  await say(page, "A message that is long enough to need more than one line on a narrow screen, as people write them.");
  await said(page, "long enough").waitFor();
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "nothing sticks out");
  await page.locator("#side").waitFor({ state: "hidden" });
  await picture(page, "phone");
  await page.locator("#menu").click();
  await page.locator("#side").evaluate((side) => Promise.all(side.getAnimations().map((moving) => moving.finished)));
  assert.ok(await page.locator("#name").isVisible());
  await picture(page, "phone-menu");
  await page.close();
});

test("the server is ready in two seconds and stops cleanly", async () => {
  assert.ok(server.ready < 2000, `it took ${server.ready} ms`);
  assert.equal(await server.stop(), 0);
});
