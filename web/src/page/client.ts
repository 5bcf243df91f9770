/** The worker, asked for one walk after the other. */
import { UserError } from "../core/errors";
import type { Request } from "../core/writer";
import type { About, Answer, Order, Picture } from "../messages";

export interface Outcome {
  stopped: boolean;
  seconds: number;
}

export class Client {
  readonly ready: Promise<About>;
  onnote: (message: string) => void = () => {};
  private readonly worker = new Worker(new URL("../worker.ts", import.meta.url), { type: "module" });
  private last: Promise<unknown> = Promise.resolve();
  private walks = 0;

  constructor(folder: string) {
    this.ready = this.answer(0, (answer) => answer.kind === "ready" && answer.about);
    this.send({ kind: "open", folder });
  }

  /** Write, after all that was asked for before; raises UserError with the worker's sentence. */
  write(request: Request, onPicture: (picture: Picture) => void): Promise<Outcome> {
    const walk = ++this.walks;
    const run = this.last.then(async () => {
      await this.ready;
      const outcome = this.answer(walk, (answer): Outcome | false => {
        if (answer.kind === "frame") onPicture(answer.picture);
        if (answer.kind === "note") this.onnote(answer.message);
        if (answer.kind === "done") return { stopped: false, seconds: answer.seconds };
        return answer.kind === "stopped" && { stopped: true, seconds: 0 };
      });
      this.send({ kind: "write", walk, request });
      return outcome;
    });
    this.last = run.catch(() => {});
    return run;
  }

  stop(): void {
    this.send({ kind: "stop" });
  }

  private send(order: Order): void {
    this.worker.postMessage(order);
  }

  /** The first answer to a walk from which `read` makes something. */
  private answer<T>(walk: number, read: (answer: Answer) => T | false): Promise<T> {
    return new Promise((resolve, reject) => {
      const listen = ({ data }: MessageEvent<Answer>) => {
        if ((data.kind === "ready" ? 0 : data.walk) !== walk) return;
        if (data.kind === "error") return end(() => reject(new UserError(data.message)));
        const value = read(data);
        if (value !== false) end(() => resolve(value));
      };
      const fail = () =>
        end(() => reject(new UserError("the worker of this page could not be started; load it again")));
      const end = (then: () => void) => {
        this.worker.removeEventListener("message", listen);
        this.worker.removeEventListener("error", fail);
        then();
      };
      this.worker.addEventListener("message", listen);
      this.worker.addEventListener("error", fail);
    });
  }
}
