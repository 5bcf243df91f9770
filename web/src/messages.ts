/** What the page and its worker say to each other. */
import type { ExportedConfig, Precision } from "./core/folder";
import type { Frame } from "./core/loop";
import type { Request } from "./core/writer";

export type Order =
  { kind: "open"; folder: string } | { kind: "write"; walk: number; request: Request } | { kind: "stop" };

/** A frame as it is shown: what each position holds, and its noise as squares of greys. */
export interface Picture extends Omit<Frame, "x"> {
  words: string[];
  shown: boolean[]; // whether the position belongs to the text
  isEnd: boolean[];
  noise: Uint8ClampedArray<ArrayBuffer>;
}

export interface About {
  config: ExportedConfig;
  precisions: Precision[];
  threads: number;
}

export type Answer =
  | { kind: "ready"; about: About }
  | { kind: "note"; walk: number; message: string }
  | { kind: "frame"; walk: number; picture: Picture }
  | { kind: "done"; walk: number; seconds: number }
  | { kind: "stopped"; walk: number }
  | { kind: "error"; walk: number; message: string };
