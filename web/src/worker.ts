/** All computing happens here, so that the page never freezes. */
import * as ort from "onnxruntime-web/wasm";
import wasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import runtimeUrl from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url&no-inline";
import { UserError, require } from "./core/errors";
import { type ReadFile, openFolder } from "./core/folder";
import { type Request, Writer } from "./core/writer";
import type { Answer, Order, Picture } from "./messages";

const MAX_THREADS = 4; // more do not help a text of some dozen tokens; one core is left to the page
// prettier-ignore
const SIMD = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0,
  253, 15, 253, 98, 11,
); // a module of one SIMD instruction

let writer: Promise<Writer> | undefined;
let wanted = 0; // the walk that is going on; any other one stops
const post = (answer: Answer, transfer: Transferable[] = []) => postMessage(answer, { transfer });

onmessage = ({ data }: MessageEvent<Order>) => {
  if (data.kind === "stop") wanted = 0;
  else if (data.kind === "open") void report(0, () => open(data.folder));
  else void report(data.walk, () => write(data.walk, data.request));
};

async function report(walk: number, task: () => Promise<void>): Promise<void> {
  await task().catch((error: unknown) => post({ kind: "error", walk, message: sentence(error) }));
}

function sentence(error: unknown): string {
  if (error instanceof UserError) return error.message;
  if (error instanceof RangeError || /memory|alloc/i.test(String(error)))
    return "there is not enough memory for this text; close other pages, or ask for fewer tokens";
  return `the model could not be run (${String(error).split("\n")[0]}); load the page again`;
}

async function open(folder: string): Promise<void> {
  require(WebAssembly.validate(
    SIMD,
  ), "this browser has no WebAssembly SIMD, which the model needs; use a newer one");
  ort.env.wasm.wasmPaths = { wasm: wasmUrl, mjs: runtimeUrl };
  ort.env.wasm.numThreads = self.crossOriginIsolated
    ? Math.max(1, Math.min(MAX_THREADS, navigator.hardwareConcurrency - 1))
    : 1;
  writer = openFolder(reader(folder)).then((opened) => new Writer(ort, opened));
  await (await writer).load();
  const { config, precisions } = (await writer).folder;
  post({ kind: "ready", about: { config, precisions, threads: ort.env.wasm.numThreads } });
}

function reader(folder: string): ReadFile {
  return async (name) => {
    const response = await fetch(`${folder}/${name}`).catch(() => null);
    require(response !== null &&
      response.ok, `${name}: could not be loaded; the folder of the model is not whole`);
    return new Uint8Array(await response.arrayBuffer());
  };
}

async function write(walk: number, request: Request): Promise<void> {
  wanted = walk;
  const { tokenizer, config } = (await writer!).folder;
  const { frames, shown, notes } = (await writer!).write(request);
  notes.forEach((message) => post({ kind: "note", walk, message }));
  let seconds = 0;
  for (;;) {
    const started = performance.now();
    const { value, done } = await frames.next();
    seconds += (performance.now() - started) / 1000;
    if (done) return post({ kind: "done", walk, seconds });
    const { x, ids, ...frame } = value;
    const parts = { words: tokenizer.split(ids), shown: shown(ids), noise: grey(x, config.model.emb_dim) };
    const picture: Picture = { ...frame, ids, ...parts, isEnd: ids.map((id) => id === config.end_id) };
    post({ kind: "frame", walk, picture }, [picture.noise.buffer]);
    await turn();
    if (wanted !== walk) return post({ kind: "stopped", walk });
  }
}

/** The first square of each position's embedding as greys. */
function grey(x: Float32Array, embDim: number): Uint8ClampedArray<ArrayBuffer> {
  const size = Math.floor(Math.sqrt(embDim)) ** 2;
  const greys = new Uint8ClampedArray((x.length / embDim) * size);
  greys.forEach((_, k) => (greys[k] = 128 + 48 * x[Math.floor(k / size) * embDim + (k % size)]!));
  return greys;
}

/** Let messages in: a promise alone does not. */
function turn(): Promise<void> {
  const { port1, port2 } = new MessageChannel();
  return new Promise((resolve) => {
    port1.onmessage = () => resolve(port1.close());
    port2.postMessage(null);
  });
}
