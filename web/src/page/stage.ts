/** The text as it stands: a word's ink is its certainty, and behind it is what is left of the noise. */
import type { Picture } from "../messages";
import { find, make } from "./dom";

const FAINTEST = 0.1; // ink of a word that is not certain at all
const SMALLEST = 0.55; // of a word in the room of a shorter one; beyond that it is narrowed
const NOISE = 0.75; // ink of pure noise
const GRAINS = 7; // from a line's top to its bottom

export type Mark = "blank" | "lock" | null;

export class Stage {
  readonly marks: Mark[] = [];
  private readonly words: HTMLElement;
  private readonly canvas: HTMLCanvasElement;
  private readonly ruler = new OffscreenCanvas(1, 1).getContext("2d")!;
  private picture: Picture | undefined;
  private held: string[] = []; // what each word's room is made for

  constructor(root: HTMLElement) {
    this.words = find(".words", root);
    this.canvas = find("canvas", root);
    new ResizeObserver(() => this.drawNoise()).observe(this.words);
  }

  get element(): HTMLElement {
    return this.words;
  }

  /** Show a picture; each word has the room that it takes in `last`, so that no line moves. */
  show(picture: Picture, last: Picture): void {
    this.picture = picture;
    this.hold(picture, last);
    picture.words.forEach((word, k) => this.showWord(k, word, picture, picture === last));
    this.drawNoise();
  }

  mark(k: number, mark: Mark): void {
    this.marks[k] = mark;
    const word = this.words.children[k] as HTMLElement;
    word.dataset.mark = mark ?? "";
    word.setAttribute("aria-pressed", String(mark !== null));
  }

  clearMarks(): void {
    this.marks.forEach((_, k) => k < this.words.children.length && this.mark(k, null));
    this.marks.length = 0;
  }

  private hold(picture: Picture, last: Picture): void {
    const held = picture.words.map((word, k) =>
      last.shown[k] ? last.words[k]! : last === picture ? "" : last.isEnd[k] ? "" : word,
    );
    while (this.words.children.length > held.length) this.words.lastElementChild!.remove();
    for (let k = this.words.children.length; k < held.length; k++) this.words.append(newWord(k));
    held.forEach((word, k) => {
      if (this.held[k] === word) return;
      const element = this.words.children[k] as HTMLElement;
      element.firstElementChild!.textContent = word.trim() || " ";
      element.classList.toggle("joined-word", word !== "" && !word.startsWith(" ") && Boolean(held[k - 1]));
      element.classList.toggle("empty", word === "");
    });
    this.held = held;
  }

  private showWord(k: number, word: string, picture: Picture, isLast: boolean): void {
    const element = this.words.children[k] as HTMLElement;
    const now = element.lastElementChild as HTMLElement;
    const certainty = picture.kind === "noise" && !picture.known[k] ? 0 : picture.confidence[k]!;
    const isHidden = picture.kind === "noise" && !picture.known[k];
    now.textContent = isHidden || picture.isEnd[k] ? "" : word.trim();
    now.style.opacity = String(picture.rejected[k] ? 1 : FAINTEST + (1 - FAINTEST) * certainty);
    now.style.transform = this.squeeze(k, now.textContent);
    element.classList.toggle("rejected", Boolean(picture.rejected[k]));
    element.classList.toggle("known", Boolean(picture.known[k]));
    element.classList.toggle("outside", Boolean(picture.known[k]) && !picture.shown[k]); // an instruction
    element.classList.toggle("gone", isLast && !picture.shown[k]);
    element.setAttribute(
      "aria-label",
      `${now.textContent || "nothing yet"}, ${Math.round(100 * certainty)} % certain`,
    );
  }

  private squeeze(k: number, word: string): string {
    if (!word || word === this.held[k]!.trim() || !this.held[k]) return "none";
    const { fontStyle, fontWeight, fontSize, fontFamily } = getComputedStyle(this.words);
    this.ruler.font = `${fontStyle} ${fontWeight} ${fontSize} ${fontFamily}`;
    const width = (text: string) => this.ruler.measureText(text).width;
    const room = Math.min(1, width(this.held[k]!.trim()) / width(word));
    return `scale(${room}, ${Math.max(room, SMALLEST)})`;
  }

  private drawNoise(): void {
    const { picture } = this;
    const [width, height] = [this.words.clientWidth, this.words.clientHeight];
    this.canvas.width = width;
    this.canvas.height = height;
    if (!picture || !width) return;
    const context = this.canvas.getContext("2d")!;
    const grain = new Grain(picture.noise, picture.words.length, getComputedStyle(this.words).color);
    [...this.words.children].forEach((word, k) => {
      if (picture.known[k] || !(word instanceof HTMLElement) || word.classList.contains("gone")) return;
      const gap = parseFloat(getComputedStyle(word).marginLeft);
      const [wide, high] = [word.offsetWidth + gap, word.offsetHeight];
      context.globalAlpha = NOISE * (picture.kind === "noise" ? 1 : 1 - picture.confidence[k]!);
      context.drawImage(
        grain.at(k, Math.ceil((wide / high) * GRAINS)),
        word.offsetLeft - gap,
        word.offsetTop,
        wide,
        high,
      );
    });
  }
}

/** The noise of a position as grains of ink on nothing. */
class Grain {
  private readonly size: number;
  private readonly ink: number[];

  constructor(
    private readonly greys: Uint8ClampedArray,
    positions: number,
    colour: string,
  ) {
    this.size = greys.length / positions;
    this.ink = colour
      .match(/[\d.]+/g)!
      .slice(0, 3)
      .map(Number);
  }

  at(k: number, columns: number): OffscreenCanvas {
    const canvas = new OffscreenCanvas(columns, GRAINS);
    const image = new ImageData(columns, GRAINS);
    for (let p = 0; p < columns * GRAINS; p++) {
      const grey = this.greys[k * this.size + ((Math.imul(p + 1, 0x9e3779b1) >>> 8) % this.size)]!;
      image.data.set([...this.ink, 2 * Math.max(0, grey - 128)], 4 * p);
    }
    canvas.getContext("2d")!.putImageData(image, 0, 0);
    return canvas;
  }
}

function newWord(k: number): HTMLElement {
  const word = make("button", "word");
  word.type = "button";
  word.tabIndex = k ? -1 : 0;
  word.append(make("span", "hold"), make("span", "now"));
  return word;
}
