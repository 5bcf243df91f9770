/** Shows the pictures of a walk one after the other, while they come and afterwards. */
import type { Picture } from "../messages";
import { prefersStillness } from "./dom";

const PAUSE = { noise: 700, denoise: 150, check: 520, correct: 420 }; // milliseconds a picture stands
const LONGEST_DRAFTS = 6000; // milliseconds that all denoising steps take together

export class Player {
  readonly pictures: Picture[] = [];
  position = 0;
  isPlaying = false;
  isWhole = false; // no more pictures will come
  private timer = 0;

  /** `show` is called with each position that is shown, and when playing begins or ends. */
  constructor(private readonly show: () => void) {}

  clear(): void {
    this.pause();
    this.pictures.length = this.position = 0;
    this.isWhole = false;
  }

  add(picture: Picture): void {
    this.pictures.push(picture);
    if (this.pictures.length === 1) this.play();
  }

  /** All pictures are there. Who asked for stillness sees the last one at once. */
  finish(): void {
    this.isWhole = true;
    if (prefersStillness()) this.seek(this.pictures.length - 1);
    else this.show();
  }

  seek(position: number): void {
    this.pause();
    this.position = position;
    this.show();
  }

  play(): void {
    clearTimeout(this.timer);
    this.isPlaying = true;
    if (this.isWhole && this.isAtEnd) this.position = 0;
    this.show();
    this.wait();
  }

  pause(): void {
    clearTimeout(this.timer);
    this.isPlaying = false;
  }

  get isAtEnd(): boolean {
    return this.position >= this.pictures.length - 1;
  }

  private wait(): void {
    const { kind } = this.pictures[this.position]!;
    const drafts = this.pictures.filter((picture) => picture.kind === "denoise").length;
    const pause = kind === "denoise" ? Math.min(PAUSE.denoise, LONGEST_DRAFTS / drafts) : PAUSE[kind];
    this.timer = window.setTimeout(() => this.advance(), pause);
  }

  private advance(): void {
    if (!this.isAtEnd) this.position++;
    else if (this.isWhole) this.isPlaying = false;
    this.show();
    if (this.isPlaying) this.wait();
  }
}
