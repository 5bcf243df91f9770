import { expect, test } from "vitest";
import { openFolder } from "../src/core/folder";
import { Generator } from "../src/core/random";
import type { SamplerConfig } from "../src/core/settings";
import { solverTable } from "../src/core/solvers";
import { fixtures, openWriter, read, write } from "./folder";

const floats = (base64: string) => new Float32Array(Uint8Array.from(Buffer.from(base64, "base64")).buffer);
const ulps = (a: number, b: number) => Math.abs(a - b) / Math.max(Math.abs(b), 1e-30) / 2 ** -23;

test.each(fixtures.random)(
  "draws of $entropy are numpy's",
  ({ entropy, normals, floats: uniforms, ...rest }) => {
    const rng = new Generator(entropy);
    expect(rng.choice(fixtures.weights)).toBe(rest.choice);
    const [ours, numpys] = [rng.normals(floats(normals).length), floats(normals)];
    const different = ours.filter((value, k) => value !== numpys[k]);
    expect(different.length).toBeLessThanOrEqual(2); // log1pf is not rounded alike by every C library
    ours.forEach((value, k) => expect(ulps(value, numpys[k]!)).toBeLessThanOrEqual(1));
    expect(rng.floats(floats(uniforms).length)).toEqual(floats(uniforms));
    expect(rest.integers.map((_, k) => rng.integer(k + 1))).toEqual(rest.integers);
    expect(rng.double()).toBe(rest.double);
  },
);

test("tables are Python's", async () => {
  const { schedule, config } = await openFolder(read);
  for (const { name, steps, start, eta, churn, rows } of fixtures.tables) {
    const how: SamplerConfig = { ...config.sampler, name, eta, churn };
    const ours = solverTable(schedule, steps, how, start).rows;
    expect(ours.length).toBe(rows.length);
    ours.forEach((row, k) =>
      row.forEach((value, c) => {
        const theirs = Math.fround(rows[k]![c]!);
        const where = `${name} ${steps}, row ${k}, column ${c}: ${value} and ${theirs}`;
        expect(Math.abs(value - theirs), where).toBeLessThanOrEqual(
          2 ** -22 * Math.max(Math.abs(theirs), 0.01),
        );
      }),
    );
  }
});

test("the tokenizer is Python's", async () => {
  const { tokenizer } = await openFolder(read);
  for (const { text, ids } of fixtures.encodings) {
    expect(tokenizer.encode(text)).toEqual(ids);
    expect(tokenizer.decode(ids)).toBe(text);
  }
});

test.each(
  fixtures.texts.map((text) => [`${text.prompt} ${text.sampler} ${text.check} ${text.seed}`, text] as const),
)("ids are the runtime's: %s", async (_, text) => {
  const { ids, calls, corrected } = text;
  expect(await write(await writer, text)).toEqual({ ids, calls, corrected });
});

const writer = openWriter();
