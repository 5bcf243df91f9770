/** What `python -m benchmarks.page` asks for: how often ids are the runtime's, and how fast the page is. */
import { writeFile } from "node:fs/promises";
import { chromium } from "playwright-core";
import { expect, test } from "vitest";
import { fixtures, openWriter, write } from "./folder";

const out = process.env.SUNFISH_MEASURED;
const WALKS = 12; // the last half is counted: the first ones are compiled while they run
const HOURS = 3_600_000; // milliseconds

test.skipIf(!out || process.env.SUNFISH_PAGE)(
  "how many texts are the runtime's",
  { timeout: 2 * HOURS },
  async () => {
    const counts: Record<string, { texts: number; equal: number }> = {};
    const writer = await openWriter();
    for (const text of fixtures.texts) {
      const kind = text.prompt ? "gaps" : text.check === false ? "plain" : "checked";
      const count = (counts[kind] ??= { texts: 0, equal: 0 });
      count.texts++;
      count.equal += Number(String((await write(writer, text)).ids) === String(text.ids));
    }
    await writeFile(out!, JSON.stringify(counts));
    expect(Object.keys(counts).length).toBeGreaterThan(0);
  },
);

test.skipIf(!out || !process.env.SUNFISH_PAGE)("how fast the page is", { timeout: HOURS }, async () => {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
  const page = await browser.newPage();
  page.setDefaultTimeout(HOURS);
  const texts = (num: number) =>
    page.waitForFunction((n) => performance.getEntriesByName("text 0").length >= n, num);
  await page.goto(`${process.env.SUNFISH_PAGE}#seed=7`);
  await texts(1);
  const seconds: number[] = [];
  for (let walk = 2; walk <= WALKS; walk++) {
    await page.click("#write");
    await texts(walk);
    seconds.push(Number(/([\d.]+) s\.$/.exec((await page.textContent(".said"))!)![1]));
  }
  const frames = await page.evaluate(
    () =>
      new Promise<number>((resolve) => {
        let count = 0;
        const start = performance.now();
        const step = (now: number) =>
          ++count && now - start < 3000 ? requestAnimationFrame(step) : resolve(count / 3);
        document.querySelector<HTMLButtonElement>("#write")!.click();
        requestAnimationFrame(step);
      }),
  );
  await page.evaluate(() => navigator.serviceWorker.ready);
  await page.reload();
  await texts(1);
  const first = await page.evaluate(() => performance.getEntriesByName("text 0")[0]!.startTime / 1000);
  await browser.close();
  const walk_seconds = seconds.slice(-WALKS / 2).sort((a, b) => a - b)[WALKS / 4]!;
  await writeFile(
    out!,
    JSON.stringify({ warm_first_text_seconds: first, walk_seconds, frames_per_second: frames }),
  );
  expect(first).toBeGreaterThan(0);
});
