/** The picture of certainty by step and position; a click on a row goes to its step. */
import type { Picture } from "../messages";
import { find } from "./dom";

const REJECTED = [224, 73, 20];

export class Certainty {
  private readonly canvas: HTMLCanvasElement;
  private readonly cursor: HTMLElement;
  private rows = 0;

  constructor(root: HTMLElement, seek: (row: number) => void) {
    const picture = find<HTMLElement>(".picture", root);
    this.canvas = find("canvas", picture);
    this.cursor = find(".cursor", picture);
    const go = (event: PointerEvent) => {
      const { top, height } = picture.getBoundingClientRect();
      if (event.buttons)
        seek(Math.max(0, Math.min(this.rows - 1, Math.floor(((event.clientY - top) / height) * this.rows))));
    };
    picture.addEventListener("pointerdown", go);
    picture.addEventListener("pointermove", go);
  }

  /** Draw all pictures of a walk, a pixel a position and step. */
  draw(pictures: Picture[]): void {
    const width = pictures[0]!.words.length;
    this.rows = this.canvas.height = pictures.length;
    this.canvas.width = width;
    const ink = getComputedStyle(this.canvas)
      .color.match(/[\d.]+/g)!
      .slice(0, 3)
      .map(Number);
    const image = new ImageData(width, this.rows);
    pictures.forEach(({ confidence, known, rejected, kind }, row) => {
      for (let k = 0; k < width; k++) {
        const certainty = kind === "noise" && !known[k] ? 0 : confidence[k]!;
        const colour = rejected[k] ? [...REJECTED, 255] : [...ink, 255 * certainty];
        image.data.set(colour, 4 * (row * width + k));
      }
    });
    this.canvas.getContext("2d")!.putImageData(image, 0, 0);
    const label = `Certainty of ${width} positions over ${this.rows - 1} steps, from noise to text`;
    this.canvas.setAttribute("aria-label", label);
  }

  point(row: number): void {
    this.cursor.style.top = `${(100 * row) / this.rows}%`;
    this.cursor.style.height = `${100 / this.rows}%`;
  }
}
