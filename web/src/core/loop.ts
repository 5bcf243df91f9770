/** Noise -> text: draft, check, correct, draft again; a frame a call, and one for each correction. */
import type { Backend } from "./backend";
import type { SamplerConfig } from "./settings";
import { type NoiseSchedule, type SolverTable, solverTable } from "./solvers";

export interface Frame {
  kind: "noise" | "denoise" | "check" | "correct";
  draft: number; // from 1
  step: number; // of the draft, from 1
  calls: number;
  corrected: number;
  ids: number[];
  confidence: Float32Array; // probability of the token, 1 where it was decided before
  known: Uint8Array;
  rejected: Uint8Array; // by the check just made
  x: Float32Array; // (pos, emb)
}

type Count = Pick<Frame, "draft" | "step" | "calls" | "corrected">;

/** Yield the frames of a text; the first one is the noise, before any call. */
export async function* frames(
  config: SamplerConfig,
  schedule: NoiseSchedule,
  backend: Backend,
): AsyncGenerator<Frame> {
  const count = { draft: 1, step: 0, calls: 0, corrected: 0 };
  const { check } = config;
  const redraft = check && solverTable(schedule, check.steps, config, check.restart_time);
  const maxRounds = check?.max_rounds ?? backend.tokens.length;
  yield frame("noise", backend, count);
  let table = solverTable(schedule, config.steps, config);
  for (; ; count.draft++, table = redraft) {
    yield* draft(config, table, backend, count);
    if (check === null || redraft === null || count.draft > maxRounds) return;
    const before = backend.tokens;
    await backend.check(check.epsilon, redraft.rows[0]![0]!);
    count.calls++;
    yield { ...frame("check", backend, count), ids: Array.from(before, Number) };
    count.corrected += Number(backend.isCorrected);
    if (backend.tokens.some((id, k) => id !== before[k])) {
      yield { ...frame("correct", backend, count), rejected: new Uint8Array(before.length) };
    }
    if (backend.isDone) return;
  }
}

async function* draft(
  config: SamplerConfig,
  table: SolverTable,
  backend: Backend,
  count: Count,
): AsyncGenerator<Frame> {
  for (let step = 0; step < table.rows.length; step++) {
    const decided = backend.known;
    await backend.denoise(table, step);
    count.calls++;
    count.step = step + 1;
    yield frame("denoise", backend, count, decided);
    if (config.confidence_threshold < 1 && backend.isDone) return;
  }
}

function frame(kind: Frame["kind"], backend: Backend, count: Count, decided = backend.known): Frame {
  const { known, rejected, x } = backend;
  const confidence = backend.confidence.map((value, k) => (decided[k] ? 1 : value));
  return { ...count, kind, ids: Array.from(backend.tokens, Number), confidence, known, rejected, x };
}
