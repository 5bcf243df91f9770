/** Words of a finished text blanked or locked: by a click, a drag, or the keyboard. */
import { find } from "./dom";
import type { Mark, Stage } from "./stage";

export class Editor {
  private readonly root: HTMLElement;
  private readonly fillButton: HTMLButtonElement;
  private from: number | null = null; // where a drag began
  private mark: Mark = null; // what it makes of words

  constructor(
    lane: HTMLElement,
    name: string,
    private readonly stage: Stage,
    fill: () => void,
  ) {
    this.root = find(".editor", lane);
    this.fillButton = find(".fill", this.root);
    this.root.querySelectorAll<HTMLInputElement>("[type=radio]").forEach((radio) => (radio.name = name));
    this.fillButton.addEventListener("click", fill);
    find(".rest", this.root).addEventListener("click", () => this.blankRest());
    const words = stage.element;
    words.addEventListener("pointerdown", (event) => this.begin(event));
    words.addEventListener("pointermove", (event) => this.extend(event));
    addEventListener("pointerup", () => (this.from = null));
    words.addEventListener("keydown", (event) => this.key(event));
  }

  set isEnabled(enabled: boolean) {
    this.root.classList.toggle("off", !enabled);
    this.root
      .querySelectorAll<HTMLInputElement>("input, .rest")
      .forEach((input) => (input.disabled = !enabled));
    this.update();
  }

  get isEnabled(): boolean {
    return !this.root.classList.contains("off");
  }

  private get tool(): Mark {
    return find<HTMLInputElement>("input:checked", this.root).value as Mark;
  }

  private begin(event: PointerEvent): void {
    const k = this.wordAt(event);
    if (k === null || !this.isEnabled || event.button) return;
    (event.target as HTMLElement).releasePointerCapture?.(event.pointerId);
    this.from = k;
    this.mark = this.stage.marks[k] === this.tool ? null : this.tool;
    this.set(k, this.mark);
  }

  private extend(event: PointerEvent): void {
    const to = this.wordAt(event);
    if (this.from === null || to === null) return;
    for (let k = Math.min(this.from, to); k <= Math.max(this.from, to); k++) this.set(k, this.mark);
  }

  private wordAt({ clientX, clientY }: PointerEvent): number | null {
    const word = document.elementFromPoint(clientX, clientY)?.closest(".word");
    const k = word ? [...this.stage.element.children].indexOf(word) : -1;
    return k < 0 ? null : k;
  }

  /** A locked word is blanked by no one but its own lock's owner: unlock it first. */
  private set(k: number, mark: Mark): void {
    if (mark === "blank" && this.stage.marks[k] === "lock") return;
    this.stage.mark(k, mark);
    this.update();
  }

  private blankRest(): void {
    [...this.stage.element.children].forEach((word, k) => {
      if (!word.classList.contains("gone")) this.set(k, this.stage.marks[k] === "lock" ? "lock" : "blank");
    });
  }

  private update(): void {
    this.fillButton.disabled = !this.isEnabled || !this.stage.marks.includes("blank");
  }

  private key(event: KeyboardEvent): void {
    const words = [...this.stage.element.querySelectorAll<HTMLElement>(".word:not(.gone)")];
    const here = words.indexOf(document.activeElement as HTMLElement);
    if (here < 0) return;
    const steps: Record<string, number> = {
      ArrowRight: here + 1,
      ArrowLeft: here - 1,
      Home: 0,
      End: words.length - 1,
    };
    const to = words[steps[event.key] ?? -1];
    if (to) {
      to.focus();
      if (event.shiftKey && this.isEnabled) this.set(this.indexOf(to), this.tool);
      event.preventDefault();
    } else if ((event.key === "Enter" || event.key === " ") && this.isEnabled) {
      const k = this.indexOf(words[here]!);
      this.set(k, this.stage.marks[k] === this.tool ? null : this.tool);
      event.preventDefault();
    }
  }

  private indexOf(word: HTMLElement): number {
    return [...this.stage.element.children].indexOf(word);
  }
}
