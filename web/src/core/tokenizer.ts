/** Text <-> ids: the byte-level BPE of `tokenizer.json`, read from the folder. */
import { UserError, require } from "./errors";

const PIECES = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu; // GPT-2's

interface TokenizerFile {
  pre_tokenizer?: { type?: string };
  model?: {
    type?: string;
    vocab?: Record<string, number>;
    merges?: (string | [string, string])[];
    ignore_merges?: boolean;
  };
}

export class Tokenizer {
  private readonly vocab: Map<string, number>;
  private readonly tokens: string[] = [];
  private readonly ranks: Map<string, number>;
  private readonly ignoresMerges: boolean;

  constructor(file: TokenizerFile) {
    const { model, pre_tokenizer } = file;
    const isKnown = model?.type === "BPE" && pre_tokenizer?.type === "ByteLevel" && model.vocab !== undefined;
    require(isKnown, "tokenizer.json: is no byte-level BPE, the one kind that this page reads");
    this.vocab = new Map(Object.entries(model!.vocab!));
    for (const [token, id] of this.vocab) this.tokens[id] = token;
    const merges = (model!.merges ?? []).map((pair) => (typeof pair === "string" ? pair : pair.join(" ")));
    this.ranks = new Map(merges.map((pair, rank) => [pair, rank]));
    this.ignoresMerges = model!.ignore_merges ?? false;
  }

  encode(text: string): number[] {
    require(text.isWellFormed(), "the text holds half a surrogate pair, which is no character");
    return (text.match(PIECES) ?? []).flatMap((piece) => this.idsOf(piece));
  }

  decode(ids: Iterable<number>): string {
    return this.split(ids).join("");
  }

  /** What each token adds to the text; a character that takes several comes with its last one. */
  split(ids: Iterable<number>): string[] {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    const words = Array.from(ids, (id) => decoder.decode(this.bytesOf(id), { stream: true }));
    const rest = decoder.decode();
    if (rest) words[words.length - 1] += rest;
    return words;
  }

  /** The words of which the tokenizer knows single bytes only. */
  unseen(text: string): string[] {
    const pieces = (text.match(PIECES) ?? []).filter((piece) => piece.trim());
    const isUnseen = (ids: number[]) => ids.length > 1 && ids.every((id) => this.tokens[id]!.length === 1);
    return [...new Set(pieces.filter((piece) => isUnseen(this.idsOf(piece))).map((piece) => piece.trim()))];
  }

  private bytesOf(id: number): Uint8Array {
    const token = this.tokens[id];
    require(token !== undefined, `tokenizer.json: has no token ${id}; it belongs to another model`);
    return Uint8Array.from(token, (letter) => BYTE_OF.get(letter) ?? 63);
  }

  private idsOf(piece: string): number[] {
    const letters = Array.from(new TextEncoder().encode(piece), (byte) => LETTERS[byte]!);
    const whole = this.vocab.get(letters.join(""));
    if (this.ignoresMerges && whole !== undefined) return [whole];
    return this.merge(letters).map((token) => {
      const id = this.vocab.get(token);
      if (id === undefined)
        throw new UserError(`tokenizer.json: has no token for "${token}"; export the model again`);
      return id;
    });
  }

  private merge(parts: string[]): string[] {
    for (;;) {
      const ranks = parts.slice(1).map((part, k) => this.ranks.get(`${parts[k]} ${part}`) ?? Infinity);
      const best = Math.min(Infinity, ...ranks);
      if (best === Infinity) return parts;
      const at = ranks.indexOf(best);
      parts = [...parts.slice(0, at), parts[at]! + parts[at + 1]!, ...parts.slice(at + 2)];
    }
  }
}

/** GPT-2's letters for bytes: printable ones stand for themselves, all others for letters from U+0100. */
const LETTERS: string[] = [];
let others = 256;
for (let byte = 0; byte < 256; byte++) {
  const isPrintable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  LETTERS.push(String.fromCharCode(isPrintable ? byte : others++));
}
const BYTE_OF = new Map(LETTERS.map((letter, byte) => [letter, byte]));
