/** The page: what is asked for -> the worker -> what people see. */
import "./style.css";
import { UserError } from "./core/errors";
import type { About } from "./messages";
import { Client } from "./page/client";
import { Controls, randomSeed } from "./page/controls";
import { find } from "./page/dom";
import { Lane } from "./page/lane";
import { type State, command, fromHash, toHash } from "./page/link";

const client = new Client(new URL("model", document.baseURI).href);
const lanes = [0, 1].map((index) => new Lane(index, refill));
const problem = find<HTMLElement>("#problem");
let controls: Controls;
let about: About;
let written: State;
let isBusy = false;
let isAskedAgain = false;

function say(sentence: string): void {
  problem.textContent = sentence;
  problem.hidden = sentence === "";
}

function sayError(error: unknown): void {
  say(
    error instanceof UserError ? error.message : `this page made a mistake (${String(error)}); load it again`,
  );
}

async function write(): Promise<void> {
  if (isBusy) {
    isAskedAgain = true; // the walk that is going on ends first
    return client.stop();
  }
  say("");
  written = controls.read();
  history.replaceState(null, "", `#${toHash(written)}`);
  find("#lanes").replaceChildren(...lanes.slice(0, written.lanes.length).map((lane) => lane.root));
  find("#command").textContent = command(written);
  setBusy(true);
  try {
    for (let index = 0; index < written.lanes.length && !isAskedAgain; index++) await run(index);
  } catch (error) {
    sayError(error);
  }
  setBusy(false);
  if (!isAskedAgain) return;
  isAskedAgain = false;
  await write();
}

async function run(index: number): Promise<void> {
  const { lanes: settings, ...asked } = written;
  const lane = lanes[index]!;
  lane.begin(name(index));
  const outcome = await client.write({ ...asked, ...settings[index] }, (picture) => lane.add(picture));
  lane.finish(outcome);
  performance.mark(`text ${index}`);
}

function name(index: number): string {
  const { sampler, check } = written.lanes[index]!;
  const usual = about.config.sampler;
  const isChecked = check ?? usual.check !== null;
  return `${sampler ?? usual.name}, ${isChecked ? "checked" : "not checked"}`;
}

function refill(text: string): void {
  controls.write({ ...controls.read(), prompt: text, instruction: "" }); // a gap is filled by what stands around it
  void write();
}

function setBusy(busy: boolean): void {
  isBusy = busy;
  find<HTMLButtonElement>("#stop").disabled = !busy;
  find<HTMLButtonElement>("#write").disabled = busy;
  find("#lanes").setAttribute("aria-busy", String(busy));
}

function readLink(): boolean {
  try {
    if (location.hash.length > 1) controls.write(fromHash(location.hash));
    return true;
  } catch (error) {
    sayError(error);
    return false;
  }
}

async function copy(what: string): Promise<void> {
  const made = lanes.slice(0, written.lanes.length);
  const texts = made.map(({ text, seconds, last: { ids, calls, corrected } }) => ({
    text,
    ids,
    calls,
    corrected,
    seconds,
  }));
  const copies: Record<string, string> = {
    text: texts.map(({ text }) => text).join("\n\n"),
    json: JSON.stringify({ texts, settings: written }, null, 2),
    link: location.href,
  };
  const done = await navigator.clipboard?.writeText(copies[what]!).then(
    () => true,
    () => false,
  );
  find("#copied").textContent = done ? "copied" : "this browser does not let a page copy";
}

async function start(): Promise<void> {
  about = await client.ready;
  client.onnote = say;
  controls = new Controls(about);
  controls.write({ seed: Number(randomSeed()), prompt: "", lanes: [{}] });
  const threads = about.threads === 1 ? "1 thread" : `${about.threads} threads`;
  find("#about").textContent = `${about.precisions.join(" or ")}, ${threads}; nothing leaves this page.`;
  controls.form.addEventListener("submit", (event) => {
    event.preventDefault();
    void write();
  });
  find("#stop").addEventListener("click", () => client.stop());
  document
    .querySelectorAll<HTMLElement>("[data-copy]")
    .forEach((button) => button.addEventListener("click", () => void copy(button.dataset.copy!)));
  addEventListener("hashchange", () => readLink() && void write());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    lanes.forEach((lane) => lane.redraw()),
  );
  if (readLink()) await write();
  else setBusy(false);
}

start().catch((error: unknown) => {
  sayError(error);
  find("#lanes").setAttribute("aria-busy", "false");
});
if ("serviceWorker" in navigator && import.meta.env.PROD) void navigator.serviceWorker.register("./sw.js");
