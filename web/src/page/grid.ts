/** All words of all steps: a row a step, a column a position. */
import type { Picture } from "../messages";
import { find, make } from "./dom";

const MOST_ROWS = 80; // of a longer walk evenly many; checks that rejected are all shown

export class Grid {
  private readonly table: HTMLTableElement;
  private readonly rows = new Map<number, HTMLTableRowElement>();

  constructor(root: HTMLElement) {
    this.table = find(".grid table", root);
  }

  draw(pictures: Picture[]): void {
    this.rows.clear();
    const stride = Math.ceil(pictures.length / MOST_ROWS);
    pictures.forEach((picture, index) => {
      const isShown = index % stride === 0 || index === pictures.length - 1 || picture.kind === "correct";
      if (isShown && picture.kind !== "noise") this.rows.set(index, row(picture));
    });
    this.table.replaceChildren(...this.rows.values());
  }

  point(index: number): void {
    this.rows.forEach((row, k) => row.classList.toggle("current", k === index));
  }
}

/** What a step is called. */
export function title({ kind, draft, step, rejected, words }: Picture): string {
  if (kind === "noise") return "noise";
  if (kind === "denoise") return `draft ${draft}, step ${step}`;
  if (kind === "correct") return "correction";
  const no = words.find((_, k) => rejected[k]);
  return no === undefined ? "check: passed" : `check: not “${no.trim() || "the end"}”`;
}

function row(picture: Picture): HTMLTableRowElement {
  const line = make("tr", picture.kind);
  const head = make("th", "", title(picture));
  head.scope = "row";
  const cells = picture.words.map((word, k) => {
    const cell = make("td", picture.rejected[k] ? "rejected" : "", picture.isEnd[k] ? "" : word.trim());
    cell.style.opacity = String(picture.rejected[k] ? 1 : 0.15 + 0.85 * picture.confidence[k]!);
    return cell;
  });
  line.append(head, ...cells);
  return line;
}
