import { EventParser, type ServerEvent } from "./sse.ts";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 8000;
/** The server sends a comment every 10 s, so a longer silence is a dead connection. */
const SILENCE_MS = 30_000;
const STALE_MS = 12_000;
const CUT = -1;
/** A browser opens six connections to a server, so a tab that nobody sees for so long gives its own back. */
const HIDDEN_MS = 10_000;

/** When to try again: after a growing pause, and at once when the browser comes back online or to the front. */
export class Network {
  private readonly failing = new Set<object>();
  private readonly sleepers = new Set<() => void>();
  private readonly watchers = new Set<(silence: number) => void>();
  private readonly listeners = new Set<() => void>();
  private hidden: ReturnType<typeof setTimeout> | undefined;
  /** Whether nobody looks; connections are given back and nothing is tried. */
  asleep = false;

  constructor() {
    addEventListener("online", () => this.wake());
    // A page of this machine works without any network, so this only cuts; it does not keep from trying.
    addEventListener("offline", () => this.doubt(CUT));
    addEventListener("pageshow", () => this.wake());
    document.addEventListener("visibilitychange", () => {
      clearTimeout(this.hidden);
      if (document.visibilityState === "hidden") {
        this.hidden = setTimeout(() => this.sleep(), HIDDEN_MS);
      } else {
        this.asleep = false;
        this.wake();
      }
    });
  }

  /** Whether some connection is being looked for. */
  get troubled(): boolean {
    return this.failing.size > 0;
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  /** Calls `action` whenever an open connection is to be cut that was silent for longer than its argument, in ms. */
  onDoubt(action: (silence: number) => void): () => void {
    this.watchers.add(action);
    return () => this.watchers.delete(action);
  }

  /** Ends every pause now. */
  wake(): void {
    for (const sleeper of [...this.sleepers]) sleeper();
    this.doubt(STALE_MS);
    this.tell();
  }

  /** `who` has a connection: the others need not wait for theirs. */
  works(who: object): void {
    if (this.failing.delete(who)) this.wake();
  }

  /** `who` wants no connection any more. */
  forget(who: object): void {
    if (this.failing.delete(who)) this.tell();
  }

  private sleep(): void {
    this.asleep = true;
    this.failing.clear();
    this.doubt(CUT);
    this.tell();
  }

  private doubt(silence: number): void {
    for (const watcher of [...this.watchers]) watcher(silence);
  }

  /** Pauses before attempt `attempt` (1, 2, ...) of `who`. */
  async pause(who: object, attempt: number, signal: AbortSignal): Promise<void> {
    if (!this.asleep) this.failing.add(who);
    this.tell();
    const whole = Math.min(FIRST_WAIT_MS * 2 ** (attempt - 1), LONGEST_WAIT_MS);
    await new Promise<void>((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.sleepers.delete(done);
        signal.removeEventListener("abort", done);
        resolve();
      };
      // Spread out, so that all tabs of a restarted server do not come at once.
      const timer = setTimeout(() => this.asleep || done(), whole * (0.75 + Math.random() / 2));
      this.sleepers.add(done);
      signal.addEventListener("abort", done);
      if (signal.aborted) done();
    });
  }

  private tell(): void {
    for (const listener of this.listeners) listener();
  }
}

/** The events of a body, in the groups they came in. Throws when the body breaks or falls silent. */
export async function* eventsOf(response: Response, network: Network): AsyncGenerator<ServerEvent[]> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new EventParser();
  let heard = Date.now();
  const cut = () => void reader.cancel(new Error("silent")).catch(() => undefined);
  let silent = false;
  const check = (limit: number) => {
    if (Date.now() - heard > limit) {
      silent = true;
      cut();
    }
  };
  const timer = setInterval(() => check(SILENCE_MS), 5000);
  const unwatch = network.onDoubt(check);
  if (network.asleep) check(CUT);
  try {
    while (true) {
      const { done, value } = await reader.read();
      if (silent) throw new Error("the connection fell silent");
      if (done) return;
      heard = Date.now();
      const events = parser.feed(value);
      if (events.length > 0) yield events;
    }
  } finally {
    clearInterval(timer);
    unwatch();
    cut();
  }
}
