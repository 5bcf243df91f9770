/** The built page in headless Chromium, at the address SUNFISH_PAGE. */
import { type Browser, type Page, chromium } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import type { Settings } from "../src/core/settings";
import { toHash } from "../src/page/link";
import { type Text, fixtures } from "./folder";

const address = process.env.SUNFISH_PAGE!;
const CHECKED = fixtures.texts.find(
  ({ prompt, sampler, corrected }) => !prompt && !sampler && corrected > 0,
)!;
const GAP = fixtures.texts.find(({ prompt }) => prompt.includes("[MASK"))!;
const TOLD = fixtures.texts.find(({ instruction }) => instruction)!;
const LONG = "#seed=1&sampler=ddpm&steps=10000&check=0";

let browser: Browser;
let page: Page;
const complaints: string[] = [];

beforeAll(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ["--no-sandbox", "--disable-gpu"],
  });
  const context = await browser.newContext({
    permissions: ["clipboard-read", "clipboard-write"],
    reducedMotion: "reduce",
    viewport: { width: 360, height: 800 },
  });
  page = await context.newPage();
  page.setDefaultTimeout(120_000); // of a busy machine
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("request", (request) => request.url().startsWith(address) || complaints.push(request.url()));
  await page.goto(`${address}#seed=999`);
  await idle();
});
afterEach(() => expect(complaints.splice(0)).toEqual([]));
afterAll(() => browser.close());

const settings = ({ sampler, steps, check }: Text): Settings =>
  JSON.parse(JSON.stringify({ sampler, steps, check }), (_, value) => value ?? undefined);
const hash = ({ instruction, ...text }: Text) => {
  const { seed, prompt } = text;
  return `#${toHash({ seed, prompt, instruction: instruction ?? undefined, lanes: [settings({ instruction, ...text })] })}`;
};
const idle = () => page.waitForSelector("#lanes[aria-busy=false]", { state: "attached" });
const copied = async (what: string) => {
  await page.click(`[data-copy=${what}]`);
  return page.evaluate(() => navigator.clipboard.readText());
};

/** Follow a link within the page, which reads it and writes. */
async function open(where: string): Promise<void> {
  await page.evaluate(
    (to) =>
      new Promise<void>((resolve) => {
        addEventListener("hashchange", () => setTimeout(resolve), { once: true });
        if (location.hash !== to) return void (location.hash = to);
        document.querySelector<HTMLElement>("#write")!.click();
        resolve();
      }),
    where,
  );
  await idle();
}

test.each([
  ["a story", CHECKED],
  ["a gap", GAP],
  ["an answer", TOLD],
])("%s is the runtime's", async (_, text) => {
  await open(hash(text));
  const [made] = JSON.parse(await copied("json")).texts;
  expect(made).toMatchObject({ ids: text.ids, calls: text.calls, corrected: text.corrected });
  expect(await page.textContent("#command")).toContain(`--seed ${text.seed}`);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  expect(wide).toBeLessThanOrEqual(360);
});

test("a check strikes a word, and the correction stands in the next picture", async () => {
  await open(hash(CHECKED));
  const seek = (to: number) => page.locator(".seek").fill(String(to));
  const last = Number(await page.getAttribute(".seek", "max"));
  let at = 0;
  while (at < last && !(await page.locator(".word.rejected").count())) await seek(++at);
  const k = await page.$$eval(".word", (words) =>
    words.findIndex((word) => word.classList.contains("rejected")),
  );
  const now = () => page.locator(".word").nth(k).locator(".now").textContent();
  const struck = await now();
  expect(await page.textContent(".where")).toMatch(/^check: not/);
  await seek(at + 1);
  expect(await page.textContent(".where")).toBe("correction");
  expect(await now()).not.toBe(struck);
  await seek(0);
  expect(await page.textContent(".where")).toBe("noise");
});

test("an instruction is neither shown nor kept where its answer's gaps are filled", async () => {
  await open(hash(TOLD));
  expect(await page.inputValue("[name=instruction]")).toBe(TOLD.instruction);
  expect(await page.textContent("#command")).toContain(`--instruction '${TOLD.instruction}'`);
  expect((await copied("text")).startsWith("once")).toBe(true);
  await page.locator(".word:not(.gone)").nth(0).click();
  await page.click(".fill");
  await idle();
  expect(await page.inputValue("[name=instruction]")).toBe("");
});

test("a link chooses the weights", async () => {
  await open(`#${new URLSearchParams({ seed: "1", precision: "int8" })}`);
  expect(await page.inputValue("[name=precision]")).toBe("int8");
  expect(await page.textContent("#command")).toContain("--precision int8");
});

test("blanked words are filled, locked ones stay", async () => {
  await open(`#${new URLSearchParams({ seed: "1", prompt: "one day anna went to the [MASK:1] ." })}`);
  const words = page.locator(".word");
  await page.check("input[value=lock]");
  await words.nth(0).click();
  await page.check("input[value=blank]");
  await words.nth(1).focus();
  await page.keyboard.press("Enter");
  await words.nth(2).hover();
  await page.mouse.down();
  await words.nth(3).hover();
  await page.mouse.up();
  await words.nth(0).click();
  expect(await page.locator("[data-mark=blank]").count()).toBe(3);
  await page.click(".fill");
  await idle();
  expect(await page.inputValue("[name=prompt]")).toMatch(/^one \[MASK:3\] to the/);
  expect(await copied("text")).toMatch(/^one.* to the/s);
});

test("a link restores two samplers side by side", async () => {
  await open("#seed=5&temperature=0.8&compare=1&b.sampler=ddim&b.steps=3&b.check=0");
  expect(await page.locator(".lane").count()).toBe(2);
  expect(await page.locator(".lane h2").nth(1).textContent()).toBe("ddim, not checked");
  const link = await copied("link");
  const text = await copied("text");
  await open("#seed=6");
  await open(new URL(link).hash);
  expect(await copied("text")).toBe(text);
});

test.each([
  "#seed=-1",
  "#seed=x",
  "#sampler=magic",
  "#steps=0",
  "#length=99999",
  "#what=ever",
  "#temperature=NaN",
])("a link that was tampered with is a sentence: %s", async (where) => {
  await open(where);
  expect((await page.textContent("#problem"))!.length).toBeGreaterThan(20);
});

test("a word that the tokenizer has never seen is said", async () => {
  await open("#seed=1&prompt=the%20zyx");
  expect(await page.textContent("#problem")).toContain("“zyx”");
});

test("a long walk can be stopped, and the page does not wait for it", async () => {
  const walk = open(LONG);
  await page.click("#stop:not([disabled])");
  await walk;
  expect(await page.textContent(".said")).toMatch(/^Stopped/);
});

test("the page opens without a network", async () => {
  await open(hash(CHECKED));
  await page.evaluate(() => navigator.serviceWorker.ready);
  await page.context().setOffline(true);
  await page.reload();
  await idle();
  expect(JSON.parse(await copied("json")).texts[0].ids).toEqual(CHECKED.ids);
  complaints.length = 0; // the browser says of each file that it came from the worker instead
  await page.context().setOffline(false);
});

test("a model cut short is a sentence", async () => {
  const context = await browser.newContext({ serviceWorkers: "block" });
  page = await context.newPage();
  await page.route("**/onnx/model*.onnx_data", async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, body: (await response.body()).subarray(0, 1000) });
  });
  await page.goto(address);
  await idle();
  expect(await page.textContent("#problem")).toContain("is not what digests.json says");
});
