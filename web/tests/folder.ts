/** The folder and the fixtures that a test run is given by `tests/test_page.py`. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as ort from "onnxruntime-web/wasm";
import { type Precision, type ReadFile, openFolder } from "../src/core/folder";
import { Writer } from "../src/core/writer";

export interface Text {
  seed: number;
  prompt: string;
  instruction: string | null;
  sampler: string | null;
  steps: number | null;
  check: boolean | null;
  ids: number[];
  calls: number;
  corrected: number;
}

export interface Fixtures {
  folder: string;
  precision: Precision;
  random: {
    entropy: number[];
    normals: string;
    floats: string;
    double: number;
    integers: number[];
    choice: number;
  }[];
  weights: number[];
  tables: { name: string; steps: number; start: number; eta: number; churn: number; rows: number[][] }[];
  encodings: { text: string; ids: number[] }[];
  texts: Text[];
}

export const fixtures: Fixtures = JSON.parse(await readFile(process.env.SUNFISH_FIXTURES!, "utf8"));
export const read: ReadFile = async (name) => new Uint8Array(await readFile(join(fixtures.folder, name)));

export async function openWriter(): Promise<Writer> {
  ort.env.wasm.numThreads = 1;
  return new Writer(ort, await openFolder(read));
}

/** The ids and counts that the page comes to where Python came to `text`. */
export async function write(writer: Writer, { seed, prompt, instruction, sampler, steps, check }: Text) {
  const { precision } = fixtures;
  const given = { instruction: instruction ?? undefined, sampler: sampler ?? undefined, steps: steps ?? undefined, check: check ?? undefined };
  const walk = writer.write({ seed, prompt, precision, ...given });
  let last;
  for await (const frame of walk.frames) last = frame;
  return { ids: last!.ids, calls: last!.calls, corrected: last!.corrected };
}
