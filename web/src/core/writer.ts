/** A folder, ready to write: what is asked for -> frames, as `sunfish generate` writes. */
import { Backend, type OpenGraph, type Runtime, graphs } from "./backend";
import { require } from "./errors";
import type { Folder, Precision } from "./folder";
import { type Frame, frames } from "./loop";
import { Generator } from "./random";
import { type Row, hasGaps, infillRow, promptRow, taskRow } from "./rows";
import { type Settings, resolve } from "./settings";

/** What to write. A `prompt` with gaps is filled, any other one is carried on. */
export interface Request extends Settings {
  seed: number;
  prompt: string;
  instruction?: string; // of a model that was fine-tuned on instructions; the prompt begins its answer
  length?: number;
  precision?: Precision;
}

export interface Walk {
  frames: AsyncGenerator<Frame>;
  shown: (ids: number[]) => boolean[]; // the positions that belong to the text
  notes: string[];
}

export class Writer {
  private readonly open = new Map<Precision, OpenGraph>();

  constructor(
    private readonly ort: Runtime,
    readonly folder: Folder,
  ) {}

  /** Load the graphs, so that the first text does not wait for them. */
  async load(precision: Precision = this.folder.precisions[0]!): Promise<void> {
    const graph = this.graphs(precision);
    await Promise.all([graph("step"), this.folder.config.can_check && graph("check")]);
  }

  /** Raises UserError before anything is drawn where the request cannot be met. */
  write(request: Request): Walk {
    const { config, tokenizer, schedule } = this.folder;
    const { seed, prompt } = request;
    require(Number.isSafeInteger(seed) && seed >= 0, `seed ${seed}: must be a whole number, not negative`);
    const how = resolve(request, config.sampler, config.can_check, hasGaps(prompt));
    const rng = new Generator([seed, 0]);
    const row = this.row(request, rng);
    const graph = this.graphs(request.precision ?? this.folder.precisions[0]!);
    const backend = new Backend(this.ort, graph, rng, how, config.model.emb_dim, row);
    const unseen = tokenizer.unseen(prompt.replace(/\[MASK(:\d+)?\]/g, " "));
    const words = unseen.map((word) => `“${word}”`).join(", ");
    const notes = unseen.length ? [`The model has never seen ${words}; it reads single bytes there.`] : [];
    const shown = this.shown(row, hasGaps(prompt), this.asked(request).length);
    return { frames: frames(how, schedule, backend), shown, notes };
  }

  /** What stands before an answer: the instruction and an end token; nothing without an instruction. */
  private asked({ instruction = "", prompt }: Request): number[] {
    const { config, tokenizer } = this.folder;
    if (!instruction.trim()) return [];
    require(Boolean(config.answers), "this model takes no instructions; write a beginning instead");
    require(!hasGaps(prompt), "an answer with gaps cannot be told what to be; empty the instruction");
    return [...tokenizer.encode(instruction), config.end_id];
  }

  private row(request: Request, rng: Generator): Row {
    const { config, tokenizer } = this.folder;
    const { prompt, length } = request;
    const asked = this.asked(request);
    const begun = () => (prompt.trim() ? tokenizer.encode(prompt) : []);
    if (asked.length) return taskRow(asked, begun(), length ?? null, config.answers!, rng);
    if (hasGaps(prompt)) return infillRow(tokenizer, prompt, config.row_lengths, config.end_id, rng);
    const isTold = config.model.length_conditioning;
    return promptRow(tokenizer, prompt, length ?? null, config.row_lengths, isTold, rng);
  }

  /** Around gaps: not what fills the row, no end token in a gap. Else: all before the first end, behind the
   * instruction. */
  private shown(row: Row, isFilled: boolean, start: number): (ids: number[]) => boolean[] {
    const end = this.folder.config.end_id;
    const last = row.ids.findLastIndex((id, k) => !row.known[k] || id !== end);
    if (isFilled) return (ids) => ids.map((id, k) => k <= last && id !== end);
    return (ids) => ids.map((_, k) => k >= start && !ids.slice(start, k + 1).includes(end));
  }

  private graphs(precision: Precision): OpenGraph {
    const held = this.folder.precisions.join(", ");
    require(this.folder.precisions.includes(precision), `precision ${precision}: the folder holds ${held}`);
    const open = this.open.get(precision) ?? graphs(this.ort, this.folder, precision);
    this.open.set(precision, open);
    return open;
  }
}
