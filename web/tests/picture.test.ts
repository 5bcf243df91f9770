/** The pictures of the README's animation: each step of one text, as the page shows it. */
import { chromium } from "playwright-core";
import { expect, test } from "vitest";

const folder = process.env.SUNFISH_PICTURES;
const SEED = 7;

test.skipIf(!folder)("pictures", { timeout: 3_600_000 }, async () => {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
  const page = await browser.newPage({ viewport: { width: 1000, height: 900 }, reducedMotion: "reduce" });
  page.setDefaultTimeout(3_600_000);
  await page.goto(`${process.env.SUNFISH_PAGE}#seed=${SEED}`);
  await page.waitForSelector("#lanes[aria-busy=false]");
  await page.addStyleTag({
    content: ".editor, .player, .said, .lane h2, details { display: none !important }",
  });
  const last = Number(await page.getAttribute(".seek", "max"));
  for (let step = 0; step <= last; step++) {
    await page.$eval(
      ".seek",
      (slider, to) => {
        (slider as HTMLInputElement).value = String(to);
        slider.dispatchEvent(new Event("input"));
      },
      step,
    );
    const kind = (await page.textContent(".where"))!.split(/[ :]/)[0];
    await page
      .locator(".lane")
      .screenshot({ path: `${folder}/${String(step).padStart(4, "0")}-${kind}.png` });
  }
  await browser.close();
  expect(last).toBeGreaterThan(0);
});
