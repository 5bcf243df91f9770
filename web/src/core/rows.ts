/** Prompts and texts with gaps -> rows of ids, and which of them are given. */
import { require } from "./errors";
import type { Generator } from "./random";
import type { Tokenizer } from "./tokenizer";

export interface RowLengths {
  lengths: number[];
  counts: number[];
}

/** How long answers are, by how long their instructions are: `lengths[k]` of at most `up_to[k]` tokens. */
export interface AnswerLengths {
  up_to: number[];
  lengths: RowLengths[];
}

export interface Row {
  ids: number[];
  known: boolean[];
}

export const MASK = / ?\[MASK(?::(\d+))?\]/g; // the space before a gap belongs to its first word
const LONGEST_DRAWN = 8; // tokens of a gap without a number

export const hasGaps = (text: string) => text.search(MASK) >= 0 && text.trim() !== "[MASK]";

const longestOf = (lengths: RowLengths) => lengths.lengths[lengths.lengths.length - 1]!;

/** A row that begins with `prompt`; without `length` one as long as rows of the training. */
export function promptRow(
  tokenizer: Tokenizer,
  prompt: string,
  length: number | null,
  lengths: RowLengths,
  isTold: boolean,
  rng: Generator,
): Row {
  const given = prompt.trim() && prompt.trim() !== "[MASK]" ? tokenizer.encode(prompt) : [];
  const longest = longestOf(lengths);
  const isPossible = length === null || (Number.isInteger(length) && length >= 1 && length <= longest);
  require(isPossible, `length ${length}: must be a whole number from 1 to ${longest}`);
  const room = length ?? (isTold ? drawLength(lengths, rng, given.length + 1) : longest);
  require(given.length <
    room, `the beginning has ${given.length} tokens, which leaves no room in a text of ${room}; shorten it`);
  const pad = room - given.length;
  return {
    ids: [...given, ...Array(pad).fill(0)],
    known: [...given.map(() => true), ...Array(pad).fill(false)],
  };
}

/** A row of an instruction's ids and an answer that begins with `prompt`, of `length` tokens or as drawn. */
export function taskRow(
  asked: number[],
  begun: number[],
  length: number | null,
  answers: AnswerLengths,
  rng: Generator,
): Row {
  const { up_to, lengths } = answers;
  const most = Math.max(...lengths.map((each, k) => up_to[k]! + longestOf(each)));
  const group = up_to.findIndex((tokens) => tokens >= asked.length);
  const usual = lengths[group < 0 ? lengths.length - 1 : group]!;
  const wanted = length ?? drawLength(usual, rng, begun.length + 1);
  const room = Math.max(0, most - asked.length);
  require(begun.length < wanted &&
    wanted <= room, `the instruction has ${asked.length} tokens, which leaves room for ${room}; shorten it`);
  const pad = wanted - begun.length;
  const given = [...asked, ...begun];
  return {
    ids: [...given, ...Array(pad).fill(0)],
    known: [...given.map(() => true), ...Array(pad).fill(false)],
  };
}

function drawLength({ lengths, counts }: RowLengths, rng: Generator, atLeast: number): number {
  const weights = counts.map((count, k) => (lengths[k]! >= atLeast ? count : 0));
  return weights.some(Boolean) ? lengths[rng.choice(weights)]! : lengths[lengths.length - 1]!;
}

/** A row in which all but the gaps is given: `[MASK:n]` is n tokens, `[MASK]` one to eight, drawn. */
export function infillRow(
  tokenizer: Tokenizer,
  text: string,
  lengths: RowLengths,
  endId: number,
  rng: Generator,
): Row {
  const gaps = [...text.matchAll(MASK)];
  const starts = [0, ...gaps.map((gap) => gap.index + gap[0].length)];
  const stops = [...gaps.map((gap) => gap.index), text.length];
  const parts = starts.map((start, k) => tokenizer.encode(text.slice(start, stops[k])));
  const longest = longestOf(lengths);
  const given = parts.reduce((sum, part) => sum + part.length, 0);
  const counts = gapLengths(gaps, longest - given, longest, rng);
  const row: Row = { ids: [...parts[0]!], known: parts[0]!.map(() => true) };
  counts.forEach((count, k) => {
    row.ids.push(...Array(count).fill(endId), ...parts[k + 1]!);
    row.known.push(...Array(count).fill(false), ...parts[k + 1]!.map(() => true));
  });
  const fitting = lengths.lengths.find((length) => length > row.ids.length) ?? longest;
  while (row.ids.length < fitting) row.known.push(row.ids.push(endId) > 0);
  return row;
}

function gapLengths(gaps: RegExpMatchArray[], room: number, longest: number, rng: Generator): number[] {
  const counts = gaps.map((gap) => Number(gap[1] ?? 1));
  gaps.forEach((gap, k) =>
    require(counts[k]! > 0, `${gap[0].trim()} is a gap of no tokens; write [MASK:1] for one`),
  );
  room -= counts.reduce((sum, count) => sum + count, 0);
  require(room >=
    0, `the text has ${longest - room} tokens, gaps included, but the model's length is ${longest}`);
  return counts.map((count, k) => {
    if (gaps[k]![1] !== undefined) return count;
    const more = rng.integer(Math.min(LONGEST_DRAWN - 1, room) + 1);
    room -= more;
    return count + more;
  });
}
