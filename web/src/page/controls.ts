/** The form: what is asked for, and what the folder recommends where nothing is. */
import type { Settings } from "../core/settings";
import { SAMPLERS } from "../core/solvers";
import type { Precision } from "../core/folder";
import type { About } from "../messages";
import { copyOf, find, make } from "./dom";
import type { State } from "./link";

const NO_CHECK = { check: false }; // what a second sampler begins with: it shows what the check does

export class Controls {
  readonly form = find<HTMLFormElement>("#controls");
  private readonly lanes: LaneSettings[];

  constructor(about: About) {
    const fieldsets = [...this.form.querySelectorAll<HTMLFieldSetElement>("fieldset")];
    this.lanes = fieldsets.map((fieldset) => new LaneSettings(fieldset, about));
    const { lengths } = about.config.row_lengths;
    find<HTMLElement>("label:has([name=instruction])", this.form).hidden = !about.config.answers;
    const weights = find<HTMLSelectElement>("[name=precision]", this.form);
    weights.append(...about.precisions.map((name) => new Option(name)));
    weights.parentElement!.hidden = about.precisions.length < 2;
    this.field("length").max = String(lengths[lengths.length - 1]);
    this.field("compare").addEventListener("change", () => this.showLanes());
    find("#reseed").addEventListener("click", () => (this.field("seed").value = randomSeed()));
    this.lanes[1]!.write(NO_CHECK);
    find<HTMLDetailsElement>("#more").open = matchMedia("(min-width: 48rem)").matches;
  }

  read(): State {
    const length = this.field("length").value;
    const lanes = this.lanes.slice(0, this.field("compare").checked ? 2 : 1).map((lane) => lane.read());
    const { value: prompt } = this.field("prompt");
    const { value: instruction } = this.field("instruction");
    return {
      seed: Number(this.field("seed").value),
      prompt,
      ...(instruction && { instruction }),
      ...(length && { length: Number(length) }),
      precision: this.field("precision").value as Precision,
      lanes,
    };
  }

  write({ seed, prompt, instruction = "", length, precision, lanes }: State): void {
    if (precision) this.field("precision").value = precision;
    this.field("seed").value = String(seed);
    this.field("prompt").value = prompt;
    this.field("instruction").value = instruction;
    this.field("length").value = length === undefined ? "" : String(length);
    this.field("compare").checked = lanes.length > 1;
    lanes.forEach((settings, lane) => this.lanes[lane]!.write(settings));
    this.showLanes();
  }

  private showLanes(): void {
    this.lanes[1]!.fieldset.hidden = !this.field("compare").checked;
  }

  private field(name: string): HTMLInputElement {
    return find(`[name=${name}]`, this.form);
  }
}

export const randomSeed = () => String(crypto.getRandomValues(new Uint32Array(1))[0]! % 100_000);

/** The settings of one sampler. */
class LaneSettings {
  private kept: Settings = {}; // what the form has no field for

  constructor(
    readonly fieldset: HTMLFieldSetElement,
    private readonly about: About,
  ) {
    fieldset.append(copyOf("#settings"));
    const { sampler, can_check } = { ...about.config };
    const options = ["", ...Object.keys(SAMPLERS)].map(
      (name) => new Option(name || `recommended (${sampler.name})`, name),
    );
    this.field<HTMLSelectElement>("sampler").append(...options);
    this.field("steps").placeholder = String(sampler.steps);
    this.field("check").disabled = !can_check;
    this.field("temperature").addEventListener("input", () => this.showTemperature());
    this.write({});
  }

  read(): Settings {
    const { sampler: usual } = this.about.config;
    const [sampler, steps] = [this.field("sampler").value, this.field("steps").value];
    const [temperature, check] = [Number(this.field("temperature").value), this.field("check").checked];
    return {
      ...this.kept,
      ...(sampler && { sampler }),
      ...(steps && { steps: Number(steps) }),
      ...(temperature !== usual.temperature && { temperature }),
      ...(check !== (usual.check !== null) && { check }),
    };
  }

  write({ sampler = "", steps, temperature, check, ...kept }: Settings): void {
    const usual = this.about.config.sampler;
    this.kept = kept;
    this.field("sampler").value = sampler;
    this.field("steps").value = steps === undefined ? "" : String(steps);
    this.field("temperature").value = String(temperature ?? usual.temperature);
    this.field("check").checked = check ?? usual.check !== null;
    this.showTemperature();
  }

  private showTemperature(): void {
    find("output", this.fieldset).replaceChildren(make("span", "", this.field("temperature").value));
  }

  private field<T extends HTMLInputElement | HTMLSelectElement = HTMLInputElement>(name: string): T {
    return find(`[name=${name}]`, this.fieldset);
  }
}
