/** A sampler is a table of coefficients: x_next = c_x x + c_0 x_0_hat + c_p x_0_prev + c_n noise. */
import type { SamplerConfig } from "./settings";

export interface NoiseSchedule {
  t: number[];
  logsnr: number[];
}

export interface SolverTable {
  rows: Float32Array[]; // logsnr, c_x, c_0, c_p, c_n
  isStochastic: boolean;
  drawsTokens: boolean;
}

type Columns = [logsnr: number[], c_x: number[], c_0: number[], c_p: number[], c_n: number[]];
type Grid = (num: number) => number[];
type Solver = (grid: Grid, steps: number, config: SamplerConfig) => Columns;

const alpha = (logsnr: number) => Math.exp(-0.5 * softplus(-logsnr));
const sigma = (logsnr: number) => alpha(-logsnr);
const softplus = (x: number) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
const zeros = (num: number) => new Array<number>(num).fill(0);

/** The table of a sampler, from `startTime` (1 is pure noise) to data. */
export function solverTable(
  schedule: NoiseSchedule,
  steps: number,
  config: SamplerConfig,
  startTime = 1,
): SolverTable {
  const columns = SAMPLERS[config.name]!(timeGrid(schedule, startTime), steps, config);
  const rows = columns[0].map((_, k) => Float32Array.from(columns, (column) => column[k]!));
  const drawsTokens = config.name === "ddpm-categorical";
  return { rows, drawsTokens, isStochastic: drawsTokens || columns[4].some((c) => c !== 0) };
}

function timeGrid(schedule: NoiseSchedule, startTime: number): Grid {
  return (num) => {
    const step = -startTime / (num - 1);
    const time = (k: number) => (k > 0 && k === num - 1 ? 0 : startTime + (k ? k * step : 0));
    return Array.from({ length: num }, (_, k) => logsnrAt(schedule, time(k)));
  };
}

function logsnrAt({ t, logsnr }: NoiseSchedule, time: number): number {
  let k = t.findIndex((knot) => knot > time) - 1;
  if (k < 0) k = time >= t[t.length - 1]! ? t.length - 1 : 0;
  if (k === t.length - 1) return logsnr[k]!;
  const slope = (logsnr[k + 1]! - logsnr[k]!) / (t[k + 1]! - t[k]!);
  return slope * (time - t[k]!) + logsnr[k]!;
}

/** Source: [DDIM] eq. 12 and 16; eta 1 is [DDPM] eq. 7. */
function ddim(grid: Grid, steps: number, eta: number): Columns {
  const logsnr = grid(steps);
  const { a_t, s_t, a_s, s_s } = ends(logsnr);
  const c_n = logsnr.map(
    (_, k) => ((eta * s_s[k]!) / s_t[k]!) * Math.sqrt(Math.max(1 - (a_t[k]! / a_s[k]!) ** 2, 0)),
  );
  const c_eps = logsnr.map((_, k) => Math.sqrt(Math.max(s_s[k]! ** 2 - c_n[k]! ** 2, 0)));
  const c_x = logsnr.map((_, k) => c_eps[k]! / s_t[k]!);
  const c_0 = logsnr.map((_, k) => a_s[k]! - (c_eps[k]! * a_t[k]!) / s_t[k]!);
  return [logsnr, c_x, c_0, zeros(steps), c_n];
}

/** Source: [DPM++] algorithm 2; its first and last rows are first order. */
function dpmpp2m(grid: Grid, steps: number): Columns {
  const logsnr = grid(steps);
  const { s_t, a_s, s_s } = ends(logsnr);
  const step = logsnr.map((level, k) => (k === steps - 1 ? Infinity : 0.5 * logsnr[k + 1]! - 0.5 * level));
  const c_0 = step.map((h, k) => a_s[k]! * -Math.expm1(-h));
  const ratio = step.map((h, k) => (k === 0 || k === steps - 1 ? 0 : h / step[k - 1]!));
  const c_x = s_s.map((s, k) => s / s_t[k]!);
  return [
    logsnr,
    c_x,
    c_0.map((c, k) => c * (1 + 0.5 * ratio[k]!)),
    c_0.map((c, k) => -0.5 * c * ratio[k]!),
    zeros(steps),
  ];
}

/** Source: [EDM] algorithm 1 without churn: an Euler step, then with both slopes' mean. */
function heun(grid: Grid, steps: number): Columns {
  const logsnr = grid(Math.floor(steps / 2) + 1);
  const { a_t, s_t, a_s, s_s } = ends(logsnr);
  const rows: number[][] = [];
  logsnr.forEach((level, k) => {
    const [u_t, u_s] = [s_t[k]! / a_t[k]!, s_s[k]! / a_s[k]!];
    rows.push([level, (a_s[k]! * u_s) / (a_t[k]! * u_t), a_s[k]! * (1 - u_s / u_t), 0, 0]);
    const isSingle = k === logsnr.length - 1 || (k === 0 && steps % 2 === 0);
    if (!isSingle) rows.push([logsnr[k + 1]!, ...heunCorrection(u_t, u_s, a_s[k]!), 0]);
  });
  return [0, 1, 2, 3, 4].map((column) => rows.map((row) => row[column]!)) as Columns;
}

function heunCorrection(u_t: number, u_s: number, a_s: number): number[] {
  const [r, h] = [u_s / u_t, u_s - u_t];
  const y_t = [1 / r, 0, -(1 - r) / r]; // in terms of the Euler step's end, x_0_hat and x_0_prev
  const slope_s = [1 / u_s, -1 / u_s, 0];
  const c = y_t.map((y, k) => y + 0.5 * h * ((y - (k === 2 ? 1 : 0)) / u_t + slope_s[k]!));
  return [c[0]!, a_s * c[1]!, a_s * c[2]!];
}

/** Source: [EDM] algorithm 2, first order: noise is added before each step. */
function churn(grid: Grid, steps: number, config: SamplerConfig): Columns {
  const landing = grid(steps);
  const raise = 2 * Math.log1p(config.churn);
  const raised = landing.map((level, k) => Math.max(k ? level - raise : level, landing[0]!));
  const [a_t, s_t] = [raised.map(alpha), raised.map(sigma)];
  const u_t = s_t.map((s, k) => s / a_t[k]!);
  const u_s = [...landing.slice(1).map((level) => sigma(level) / alpha(level)), 0];
  const [a_s, s_s] = [
    [...a_t.slice(1), 1],
    [...s_t.slice(1), 0],
  ];
  const added = u_s.map((u, k) => Math.sqrt(Math.max((s_s[k]! / a_s[k]!) ** 2 - u ** 2, 0)));
  const c_x = u_s.map((u, k) => (a_s[k]! * u) / (a_t[k]! * u_t[k]!));
  const c_0 = u_s.map((u, k) => a_s[k]! * (1 - u / u_t[k]!));
  return [raised, c_x, c_0, zeros(steps), added.map((c, k) => a_s[k]! * c)];
}

/** alpha and sigma where each row starts (t) and where it lands (s); the last one lands on clean data. */
function ends(logsnr: number[]) {
  const [a_t, s_t] = [logsnr.map(alpha), logsnr.map(sigma)];
  return { a_t, s_t, a_s: [...a_t.slice(1), 1], s_s: [...s_t.slice(1), 0] };
}

export const SAMPLERS: Record<string, Solver> = {
  ddpm: (grid, steps) => ddim(grid, steps, 1),
  ddim: (grid, steps, config) => ddim(grid, steps, config.eta),
  "dpmpp-2m": dpmpp2m,
  "ddpm-categorical": (grid, steps) => ddim(grid, steps, 1),
  heun,
  churn,
};
