// The page that `vopr --trace` draws, in a real browser: what a person does who hunts a bug.
import assert from "node:assert/strict";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"];
const PICTURES = process.env.PICTURES;
const TRACE = process.env.TRACE;

let browser, page, troubles, asked;

before(async () => {
  assert.ok(TRACE, "TRACE names a page that `vopr --seed S --trace FILE` wrote");
  browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
  page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  page.setDefaultTimeout(15000);
  [troubles, asked] = [[], []];
  page.on("pageerror", (error) => troubles.push(String(error)));
  page.on("console", (message) => message.type() === "error" && troubles.push(message.text()));
  page.on("request", (request) => asked.push(request.url()));
  await page.goto(pathToFileURL(TRACE).href);
  await page.locator("#picture[data-drawn]").waitFor();
  if (PICTURES) await mkdir(PICTURES, { recursive: true });
});

after(() => browser?.close());

const picture = (name) => PICTURES && page.screenshot({ path: join(PICTURES, `${name}.png`) });
// What is painted follows with the next frame of the browser.
const settled = () => page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
async function shown() {
  await settled();
  const { drawn, from, to } = await page.locator("#picture").evaluate((canvas) => ({ ...canvas.dataset }));
  return { drawn: Number(drawn), from: Number(from), to: Number(to) };
}
const found = async () => Number.parseInt(await page.locator("#count").textContent());
const colours = () => page.locator("#picture").evaluate((canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const seen = new Set();
  for (let i = 0; i < data.length; i += 4) if (data[i + 3]) seen.add(`${data[i] >> 4},${data[i + 1] >> 4},${data[i + 2] >> 4}`);
  return seen.size;
});

test("the run is drawn, and nothing is asked of any host", async () => {
  const whole = await shown();
  assert.ok(whole.drawn > 100, `${whole.drawn} messages are drawn`);
  assert.ok(await colours() > 12, "lanes, bands and messages have colours");
  assert.ok(await page.locator("#processes button").count() >= 3);
  assert.deepEqual(asked.filter((url) => !url.startsWith("file:") && !url.startsWith("data:")), []);
  await picture("trace-whole");
});

test("wheel, keys and drag move through time", async () => {
  const whole = await shown();
  const box = await page.locator("#picture").boundingBox();
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
  for (let i = 0; i < 12; i++) await page.mouse.wheel(0, -400);
  const near = await shown();
  assert.ok(near.to - near.from < (whole.to - whole.from) / 50, "the wheel zooms");
  await page.keyboard.press("ArrowRight");
  const right = await shown();
  assert.ok(right.from > near.from && right.to > near.to, "a key moves");
  await page.mouse.down();
  await page.mouse.move(box.x + box.width / 2 + 200, box.y + box.height / 2, { steps: 4 });
  await page.mouse.up();
  assert.ok((await shown()).from < right.from, "so does the mouse");
  await page.keyboard.press("f");
  assert.deepEqual(await shown(), whole);
});

test("the last events are one step away, and a click tells of one", async () => {
  const whole = await shown();
  await page.locator("#violation").click();
  const last = await shown();
  assert.ok(last.to >= whole.to - (whole.to - whole.from) * 0.05 && last.to - last.from < (whole.to - whole.from) / 2);
  await page.locator("#details dt").filter({ hasText: /^(event|message)$/ }).waitFor();
  await page.locator("#list .chosen").waitFor();
  await picture("trace-last-events");
  await page.locator("#list .item").nth(2).click();
  assert.match(await page.locator("#details").textContent(), /(left|at)\d+\.\d{6} s/);
  await page.keyboard.press("f");
});

test("filters and the search leave out the rest", async () => {
  const [whole, all] = [await shown(), await found()];
  await page.locator("#kinds button", { hasText: /^prepare$/ }).dblclick();
  const prepares = await found();
  assert.ok(prepares > 0 && prepares < all, `${prepares} of ${all}`);
  for (const line of await page.locator("#list .item").allTextContents()) assert.match(line, /^\d+\.\d+ prepare r\d→r\d/);
  assert.ok((await shown()).drawn < whole.drawn);
  await page.locator("#processes button", { hasText: /^r0$/ }).click();
  assert.ok(await found() < prepares, "messages from and to a hidden process are hidden");
  await page.locator("#processes button", { hasText: /^r0$/ }).click();
  await page.locator("#kinds button", { hasText: /^prepare$/ }).dblclick();
  assert.equal(await found(), all, "the same again shows all");
  await page.locator("#search").fill("start_view r1");
  const hits = await found();
  assert.ok(hits > 0 && hits < all, `${hits} of ${all}`);
  await page.locator("#search").fill("");
  assert.equal(await found(), all);
});

test("it is as good in the dark", async () => {
  await page.emulateMedia({ colorScheme: "dark" });
  await settled();
  await page.locator("#violation").click();
  assert.equal(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), "rgb(20, 23, 28)");
  assert.ok(await colours() > 8);
  await picture("trace-dark");
});

test("a run that broke a promise says so, and its violation is one step away", async () => {
  const folder = await mkdtemp(join(tmpdir(), "tigerchat-trace-"));
  const [head, rest] = (await readFile(TRACE, "utf8")).split('id="run">');
  const at = rest.indexOf("</script>"), run = JSON.parse(rest.slice(0, at));
  run.verdict = { checker: "agreement", what: "two logs" };
  run.marks.push([run.end, run.lanes.length, "violation", "agreement: two logs"]);
  await writeFile(join(folder, "broken.html"), `${head}id="run">${JSON.stringify(run).replaceAll("<", "\\u003c")}${rest.slice(at)}`);
  await page.goto(pathToFileURL(join(folder, "broken.html")).href);
  assert.equal(await page.locator("#verdict.broken").textContent(), "broke agreement: two logs");
  await page.keyboard.press("v");
  await page.locator("#details dd").filter({ hasText: "agreement: two logs" }).waitFor();
  assert.equal(await page.locator("#details dd").first().textContent(), "violation");
  await picture("trace-violation");
  await rm(folder, { recursive: true });
});

test("nothing complained", () => assert.deepEqual(troubles, []));
