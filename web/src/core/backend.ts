/** One text in the making, denoised and checked by the graphs of an exported folder in ONNX Runtime Web. */
import type * as Ort from "onnxruntime-web/wasm";
import { UserError } from "./errors";
import type { Folder, Precision } from "./folder";
import type { Generator } from "./random";
import type { Row } from "./rows";
import type { SamplerConfig } from "./settings";
import type { SolverTable } from "./solvers";

export type Runtime = typeof Ort;
export type OpenGraph = (name: "step" | "check") => Promise<Ort.InferenceSession>;

/** Each graph of a folder, loaded when it is first asked for. */
export function graphs(ort: Runtime, folder: Folder, precision: Precision): OpenGraph {
  const open = new Map<string, Promise<Ort.InferenceSession>>();
  return (name) => open.get(name) ?? open.set(name, load(ort, folder, name, precision)).get(name)!;
}

async function load(
  ort: Runtime,
  folder: Folder,
  name: string,
  precision: Precision,
): Promise<Ort.InferenceSession> {
  const { bytes, weights, weightsName } = await folder.graph(name, precision);
  const options: Ort.InferenceSession.SessionOptions = {
    executionProviders: ["wasm"],
    externalData: [{ path: weightsName, data: weights }],
    extra: { session: { disable_quant_qdq: "1" } },
  };
  return ort.InferenceSession.create(bytes, options).catch((error: Error) => {
    throw new UserError(`onnx/${name}: cannot be loaded by ONNX Runtime (${error.message.split("\n")[0]})`);
  });
}

/** The state of a text: (pos, emb) of noise and estimate, and what stands at each position. */
export class Backend {
  x: Float32Array;
  tokens: BigInt64Array;
  confidence: Float32Array;
  known: Uint8Array;
  rejected: Uint8Array;
  private ids: BigInt64Array;
  private readonly given: Uint8Array;
  private x_0_prev: Float32Array;
  private uniforms: Float32Array;
  private readonly length: number;

  constructor(
    private readonly ort: Runtime,
    private readonly open: OpenGraph,
    private readonly rng: Generator,
    private readonly config: SamplerConfig,
    private readonly embDim: number,
    row: Row,
  ) {
    this.length = row.ids.length;
    this.tokens = this.ids = BigInt64Array.from(row.ids, BigInt);
    this.known = this.given = Uint8Array.from(row.known, Number);
    [this.x, this.uniforms] = this.draw();
    this.x_0_prev = new Float32Array(this.x.length);
    this.confidence = new Float32Array(this.length);
    this.rejected = new Uint8Array(this.length);
  }

  get isDone(): boolean {
    return this.known.every(Boolean);
  }

  /** Whether the check just made rejected a token that was not given. */
  get isCorrected(): boolean {
    return this.rejected.some((rejected, k) => rejected && !this.given[k]);
  }

  /** Take the table's step `index`; after the last one every position is known. */
  async denoise(table: SolverTable, index: number): Promise<void> {
    let noise = this.x_0_prev; // times c_n = 0
    if (table.isStochastic) {
      if (this.isDone) noise = new Float32Array(this.x.length);
      else [noise, this.uniforms] = this.draw();
    }
    const isLast = index === table.rows.length - 1;
    const out = await this.run("step", {
      x: this.embeddings(this.x),
      x_0_prev: this.embeddings(this.x_0_prev),
      noise: this.embeddings(noise),
      ids: this.tensor("int64", this.ids),
      known: this.tensor("bool", this.known),
      uniforms: this.tensor("float32", this.uniforms),
      coefficients: new this.ort.Tensor("float32", table.rows[index]!, [5]),
      confidence_threshold: this.scalar(isLast ? 0 : this.config.confidence_threshold),
      epsilon_cutoff: this.scalar(this.config.epsilon_cutoff),
      draws_tokens: this.scalar(Number(table.drawsTokens)),
    });
    const [x, x_0_hat, ids, known, tokens, confidence] = out as [
      Float32Array,
      Float32Array,
      BigInt64Array,
      Uint8Array,
      BigInt64Array,
      Float32Array,
    ];
    Object.assign(this, { x, x_0_prev: x_0_hat, ids, known, tokens, confidence });
    this.rejected = new Uint8Array(this.length);
  }

  /** Accept, correct, and noise the rest anew, at `logsnr`. */
  async check(epsilon: number, logsnr: number): Promise<void> {
    const [noise, uniforms] = this.draw();
    const out = await this.run("check", {
      ids: this.tensor("int64", this.tokens),
      given: this.tensor("bool", this.given),
      noise: this.embeddings(noise),
      uniforms: this.tensor("float32", uniforms),
      epsilon: this.scalar(epsilon),
      logsnr: this.scalar(logsnr),
    });
    const [x, ids, known, rejected] = out as [Float32Array, BigInt64Array, Uint8Array, Uint8Array];
    Object.assign(this, { x, ids, tokens: ids, known, rejected, x_0_prev: new Float32Array(x.length) });
  }

  private draw(): [Float32Array, Float32Array] {
    return [this.rng.normals(this.length * this.embDim), this.rng.floats(this.length)];
  }

  private async run(graph: "step" | "check", inputs: Record<string, Ort.Tensor>): Promise<unknown[]> {
    const session = await this.open(graph);
    const temperature = new this.ort.Tensor("float32", [this.config.temperature], [1]);
    const out = await session.run({ ...inputs, temperature });
    return session.outputNames.map((name) => out[name]!.data);
  }

  private embeddings(values: Float32Array): Ort.Tensor {
    return new this.ort.Tensor("float32", values, [1, this.length, this.embDim]);
  }

  private tensor(
    type: "int64" | "bool" | "float32",
    values: BigInt64Array | Uint8Array | Float32Array,
  ): Ort.Tensor {
    return new this.ort.Tensor(type as "float32", values as Float32Array, [1, this.length]);
  }

  private scalar(value: number): Ort.Tensor {
    return new this.ort.Tensor("float32", [value], []);
  }
}
