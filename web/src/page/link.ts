/** What was asked for, in the address: a link restores it. */
import type { Settings } from "../core/settings";
import { PRECISIONS, type Precision } from "../core/folder";
import { UserError, require } from "../core/errors";
import { SAMPLERS } from "../core/solvers";

export interface State {
  seed: number;
  prompt: string;
  instruction?: string;
  length?: number;
  precision?: Precision; // of the weights
  lanes: Settings[]; // one, or two side by side
}

const LONGEST_PROMPT = 2000; // characters, of an instruction, too

type Reader = (value: string, key: string) => string | number | boolean;
const number: Reader = (value, key) => {
  const read = value.trim() === "" ? NaN : Number(value);
  require(Number.isFinite(read), `the link's ${key} is "${value.slice(0, 40)}", which is no number`);
  return read;
};
const flag: Reader = (value, key) => {
  require(value === "0" || value === "1", `the link's ${key} is "${value.slice(0, 40)}"; it must be 0 or 1`);
  return value === "1";
};
const solver: Reader = (value, key) => {
  require(Object.hasOwn(
    SAMPLERS,
    value,
  ), `the link's ${key} is "${value.slice(0, 40)}", which is no sampler`);
  return value;
};
const weights = (value: string): Precision => {
  const found = PRECISIONS.find((name) => name === value);
  require(found !== undefined, `the link's precision is "${value.slice(0, 40)}"; it must be fp32 or int8`);
  return found!;
};
const SETTINGS: Record<string, Reader> = {
  sampler: solver,
  steps: number,
  temperature: number,
  check: flag,
  epsilon: number,
  redraft: number,
};

/** The part of an address behind #. */
export function toHash({ seed, prompt, instruction, length, precision, lanes }: State): string {
  const query = new URLSearchParams({ seed: String(seed) });
  if (prompt) query.set("prompt", prompt);
  if (instruction) query.set("instruction", instruction);
  if (length !== undefined) query.set("length", String(length));
  if (precision) query.set("precision", precision);
  lanes.forEach((settings, lane) => {
    if (lane) query.set("compare", "1");
    for (const [key, value] of Object.entries(settings))
      query.set(lane ? `b.${key}` : key, String(typeof value === "boolean" ? Number(value) : value));
  });
  return query.toString();
}

/** Raises UserError about a link that nobody can have been given by this page. */
export function fromHash(hash: string): State {
  const state: State = { seed: 0, prompt: "", lanes: [{}] };
  const query = new URLSearchParams(hash.replace(/^#/, ""));
  if (query.has("compare")) state.lanes.push({});
  for (const [key, value] of query) {
    if (key === "compare") flag(value, key);
    else if (key === "seed" || key === "length") state[key] = number(value, key) as number;
    else if (key === "prompt" || key === "instruction") state[key] = value;
    else if (key === "precision") state.precision = weights(value);
    else readSetting(state, key, value);
  }
  require(Math.max(state.prompt.length, state.instruction?.length ?? 0) <=
    LONGEST_PROMPT, `the link's text has more than ${LONGEST_PROMPT} characters`);
  require(Number.isSafeInteger(state.seed) &&
    state.seed >= 0, `the link's seed is ${state.seed}; it must be a whole number`);
  return state;
}

function readSetting(state: State, key: string, value: string): void {
  const lane = key.startsWith("b.") ? state.lanes[1] : state.lanes[0];
  const name = key.replace(/^b\./, "");
  if (!lane || !Object.hasOwn(SETTINGS, name))
    throw new UserError(`the link has "${key.slice(0, 40)}", which this page does not know`);
  Object.assign(lane, { [name]: SETTINGS[name]!(value, key) });
}

/** The command that writes the same text. */
export function command({ seed, prompt, instruction, length, precision, lanes }: State): string {
  const quote = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;
  const isInfill = /\[MASK(:\d+)?\]/.test(prompt);
  const { sampler, steps, temperature, check, epsilon, redraft } = lanes[0]!;
  const options: [string, unknown][] = [
    ["seed", seed],
    ["instruction", instruction && quote(instruction)],
    ["prompt", !isInfill && prompt ? quote(prompt) : undefined],
    ["length", isInfill ? undefined : length],
    ["sampler", sampler],
    ["steps", steps],
    ["temperature", temperature],
    ["check-epsilon", epsilon],
    ["redraft-steps", redraft],
    ["precision", precision],
  ];
  const given = options
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `--${name} ${value}`);
  if (check !== undefined) given.push(check ? "--check" : "--no-check");
  return ["sunfish", isInfill ? "infill" : "generate", ...given, ...(isInfill ? [quote(prompt)] : [])].join(" ");
}
