import { readUIMessageStream, type UIMessageChunk } from "ai";
import { openTurn, Refused, type Message } from "./api.ts";
import { eventsOf, type Network } from "./network.ts";
import type { ServerEvent } from "./sse.ts";

const PAINT_MS = 40;
/** What no further attempt changes: no token, no such turn, no such records. */
const GONE = new Set([401, 404, 410, 416]);

interface Reader {
  message(message: Message): void;
  /** The turn's `finish` was read, or its records are gone: the conversation says how it stands. */
  over(finished: boolean): void;
  refused(error: Refused): void;
}

/**
 * Reads one turn to its end, over as many connections as that takes.
 *
 * The AI SDK sees one unbroken stream: each record once, in order, whatever happens to the connections.
 */
export class LiveTurn {
  readonly turn: string;
  private readonly abort = new AbortController();
  private readonly network: Network;
  private readonly reader: Reader;
  private feed!: ReadableStreamDefaultController<UIMessageChunk>;
  private readonly shown: Promise<void>;
  private cursor: number | null;
  private held: UIMessageChunk[] = [];
  private finished = false;

  /**
   * `before` is the message, as history has it, that the turn goes on with; its journal holds only what is new.
   * `response` is a connection that is already open and begins with record 0.
   */
  constructor(turn: string, before: Message | null, network: Network, reader: Reader, response?: Response) {
    this.turn = turn;
    this.network = network;
    this.reader = reader;
    this.cursor = response ? 0 : null;
    const stream = new ReadableStream<UIMessageChunk>({ start: (controller) => void (this.feed = controller) });
    this.shown = this.show(stream, before);
    void this.run(response);
  }

  close(): void {
    this.abort.abort();
    this.network.forget(this);
  }

  private async run(handed?: Response): Promise<void> {
    const { signal } = this.abort;
    let response = handed;
    for (let attempt = 1; !signal.aborted; attempt++) {
      try {
        response ??= await openTurn(this.turn, this.cursor, signal);
        this.network.works(this);
        for await (const events of eventsOf(response, this.network)) {
          if (signal.aborted) return;
          attempt = 1;
          this.take(events);
        }
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Refused && GONE.has(error.status)) return this.gone(error);
      }
      if (this.finished) return this.end();
      response = undefined;
      this.held = [];
      await this.network.pause(this, attempt, signal);
    }
  }

  private gone(error: Refused): void {
    this.network.forget(this);
    if (error.status === 401) this.reader.refused(error);
    else this.reader.over(false);
  }

  private async end(): Promise<void> {
    this.feed.close();
    await this.shown;
    if (!this.abort.signal.aborted) this.reader.over(true);
  }

  /** A replay's records have no number but the last, so they are held until it comes: all of them count, or none. */
  private take(events: ServerEvent[]): void {
    const due: UIMessageChunk[] = [];
    for (const event of events) {
      if (event.data === "[DONE]") continue;
      const chunk = JSON.parse(event.data) as UIMessageChunk;
      if (event.id === null) {
        this.held.push(chunk);
        continue;
      }
      const seq = Number(event.id);
      if (this.cursor !== null && seq < this.cursor) continue;
      if (this.cursor !== null && seq > this.cursor) throw new Error(`record ${this.cursor} is missing`);
      this.cursor = seq + 1;
      due.push(...this.held, chunk);
      this.held = [];
      if (chunk.type === "finish") this.finished = true;
    }
    for (const chunk of joined(due)) this.feed.enqueue(chunk);
  }

  private async show(stream: ReadableStream<UIMessageChunk>, before: Message | null): Promise<void> {
    // The SDK writes into what it is given.
    const base = before ? { message: structuredClone(before) } : {};
    let newest: Message | null = null;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const paint = () => {
      clearTimeout(timer);
      timer = undefined;
      if (newest && !this.abort.signal.aborted) this.reader.message(newest);
    };
    for await (const message of readUIMessageStream<Message>({ stream, ...base })) {
      newest = message;
      timer ??= setTimeout(paint, PAINT_MS);
    }
    paint();
  }
}

/** Neighbouring deltas of one part as one, without what ends a turn: its `finish` carries the outcome. */
export function joined(chunks: UIMessageChunk[]): UIMessageChunk[] {
  const out: UIMessageChunk[] = [];
  for (const chunk of chunks) {
    if (chunk.type === "error" || chunk.type === "abort") continue;
    const last = out.at(-1);
    if (
      (chunk.type === "text-delta" || chunk.type === "reasoning-delta") &&
      last?.type === chunk.type &&
      last.id === chunk.id &&
      !chunk.providerMetadata
    ) {
      out[out.length - 1] = { ...last, delta: last.delta + chunk.delta };
    } else {
      out.push(chunk);
    }
  }
  return out;
}
