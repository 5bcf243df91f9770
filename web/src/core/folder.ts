/** An exported folder, its files held against their digests. */
import { UserError, require } from "./errors";
import type { AnswerLengths, RowLengths } from "./rows";
import { type SamplerConfig, requireUsable } from "./settings";
import type { NoiseSchedule } from "./solvers";
import { Tokenizer } from "./tokenizer";

const FORMAT = 9; // of the exported folder, as in sunfish/sampling/onnx_backend.py
const REMEDY = "export the model again, or copy the whole folder";
export const PRECISIONS = ["fp32", "int8"] as const; // the most exact one first, as the runtime takes them
export type Precision = (typeof PRECISIONS)[number];
export type ReadFile = (name: string) => Promise<Uint8Array<ArrayBuffer>>;

export interface ExportedConfig {
  format: number;
  model: { emb_dim: number; length_conditioning: boolean };
  row_lengths: RowLengths;
  answers?: AnswerLengths | null; // null: the model takes no instructions
  end_id: number;
  can_check: boolean;
  sampler: SamplerConfig;
}

export interface Folder {
  config: ExportedConfig;
  precisions: Precision[];
  tokenizer: Tokenizer;
  schedule: NoiseSchedule;
  graph: (name: string, precision: Precision) => Promise<Graph>;
}

export interface Graph {
  bytes: Uint8Array<ArrayBuffer>;
  weightsName: string;
  weights: Uint8Array<ArrayBuffer>;
}

const suffix = (precision: Precision) => (precision === "int8" ? "_quantized" : "");
const weightsPath = (precision: Precision) => `onnx/model${suffix(precision)}.onnx_data`;

/** The folder that `read` reads from. */
export async function openFolder(read: ReadFile): Promise<Folder> {
  const config = await readJson<ExportedConfig>(read, "config.json");
  const format = config.format;
  require(format ===
    FORMAT, `config.json: is of format ${format}, this page reads format ${FORMAT}; ${REMEDY}`);
  requireWhole(config);
  const digests = await readJson<Record<string, string>>(read, "digests.json");
  const checked = (name: string) => readChecked(read, name, digests);
  const [tokenizer, schedule] = await Promise.all([
    readJson<ConstructorParameters<typeof Tokenizer>[0]>(checked, "tokenizer.json"),
    readJson<NoiseSchedule>(checked, "noise_schedule.json"),
    checked("config.json"),
  ]);
  const precisions = PRECISIONS.filter((precision) => weightsPath(precision) in digests);
  require(precisions.length > 0, `digests.json: lists no weights; ${REMEDY}`);
  const once = new Map<string, ReturnType<ReadFile>>();
  const readOnce = (name: string) => once.get(name) ?? once.set(name, checked(name)).get(name)!;
  const graph = (name: string, precision: Precision) => readGraph(readOnce, name, precision);
  return { config, precisions, tokenizer: new Tokenizer(tokenizer), schedule, graph };
}

async function readGraph(read: ReadFile, name: string, precision: Precision): Promise<Graph> {
  const path = weightsPath(precision);
  const [bytes, weights] = await Promise.all([read(`onnx/${name}${suffix(precision)}.onnx`), read(path)]);
  return { bytes, weights, weightsName: path.slice("onnx/".length) };
}

async function readChecked(read: ReadFile, name: string, digests: Record<string, string>) {
  const bytes = await read(name);
  const digest = Array.from(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)));
  const hex = digest.map((byte) => byte.toString(16).padStart(2, "0")).join("");
  require(hex ===
    digests[name], `${name}: is not what digests.json says: it was altered or cut short; ${REMEDY}`);
  return bytes;
}

async function readJson<T>(read: ReadFile, name: string): Promise<T> {
  const text = new TextDecoder().decode(await read(name));
  try {
    return JSON.parse(text) as T;
  } catch {
    throw new UserError(`${name}: is not JSON; ${REMEDY}`);
  }
}

function requireWhole({ model, row_lengths, end_id, sampler }: ExportedConfig): void {
  const { lengths, counts } = row_lengths ?? {};
  const hasLengths = Array.isArray(lengths) && lengths.length > 0 && lengths.length === counts?.length;
  require(hasLengths, `config.json: row_lengths is not usable; ${REMEDY}`);
  const hasSizes = Number.isInteger(model?.emb_dim) && Number.isInteger(end_id) && sampler !== undefined;
  require(hasSizes, `config.json: lacks emb_dim, end_id or sampler; ${REMEDY}`);
  requireUsable(sampler);
}
