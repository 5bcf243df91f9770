/** One sampler at work: its text, its steps, its certainty, and what may be changed of its text. */
import type { Picture } from "../messages";
import { Certainty } from "./certainty";
import type { Outcome } from "./client";
import { copyOf, find } from "./dom";
import { Editor } from "./editor";
import { Grid, title } from "./grid";
import { Player } from "./player";
import { Stage } from "./stage";

export class Lane {
  readonly root: HTMLElement;
  seconds = 0;
  private readonly stage: Stage;
  private readonly editor: Editor;
  private readonly certainty: Certainty;
  private readonly grid: Grid;
  private readonly player = new Player(() => this.show());

  /** `refill` is called with the text, its blanked words as gaps. */
  constructor(index: number, refill: (text: string) => void) {
    this.root = copyOf("#lane").firstElementChild as HTMLElement;
    this.stage = new Stage(find(".stage", this.root));
    this.editor = new Editor(this.root, `tool-${index}`, this.stage, () => refill(this.textWithGaps()));
    this.certainty = new Certainty(this.root, (row) => this.player.seek(row));
    this.grid = new Grid(this.root);
    const { slider, player } = this;
    slider.addEventListener("input", () => player.seek(slider.valueAsNumber));
    find(".play", this.root).addEventListener("click", () =>
      player.isPlaying ? player.seek(player.position) : player.play(),
    );
  }

  begin(name: string): void {
    find("h2", this.root).textContent = name;
    this.player.clear();
    this.stage.clearMarks();
    this.editor.isEnabled = false;
    this.say("");
  }

  add(picture: Picture): void {
    this.player.add(picture);
  }

  finish({ stopped, seconds }: Outcome): void {
    this.seconds = seconds;
    const { calls, corrected } = this.last;
    const words = corrected === 1 ? "1 word" : `${corrected} words`;
    this.say(
      stopped
        ? `Stopped after ${calls} calls.`
        : `${calls} calls of the network, ${words} corrected, ${seconds.toFixed(2)} s.`,
    );
    this.certainty.draw(this.player.pictures);
    this.grid.draw(this.player.pictures);
    this.player.finish();
  }

  say(sentence: string): void {
    find(".said", this.root).textContent = sentence;
  }

  /** The pictures' colours are those of the page's ground. */
  redraw(): void {
    if (!this.player.isWhole || !this.root.isConnected) return;
    this.certainty.draw(this.player.pictures);
    this.show();
  }

  get last(): Picture {
    return this.player.pictures[this.player.pictures.length - 1]!;
  }

  get text(): string {
    return this.last.words.filter((_, k) => this.last.shown[k]).join("");
  }

  private get slider(): HTMLInputElement {
    return find(".seek", this.root);
  }

  private show(): void {
    const { pictures, position, isWhole, isPlaying } = this.player;
    const picture = pictures[position];
    if (!picture) return;
    this.stage.show(picture, isWhole ? this.last : picture);
    this.slider.max = String(pictures.length - 1);
    this.slider.value = String(position);
    this.slider.setAttribute("aria-valuetext", title(picture));
    find(".where", this.root).textContent = title(picture);
    const play = find(".play", this.root);
    play.textContent = isPlaying ? "❚❚" : "▶";
    play.setAttribute("aria-label", isPlaying ? "Pause" : "Play");
    this.editor.isEnabled = isWhole && !isPlaying && this.player.isAtEnd;
    if (!isWhole) return;
    this.certainty.point(position);
    this.grid.point(position);
  }

  private textWithGaps(): string {
    let text = "";
    let gap = 0;
    this.last.words.forEach((word, k) => {
      if (!this.last.shown[k]) return;
      if (this.stage.marks[k] === "blank") return void gap++;
      text += (gap ? ` [MASK:${gap}]` : "") + word;
      gap = 0;
    });
    return (text + (gap ? ` [MASK:${gap}]` : "")).trim();
  }
}
