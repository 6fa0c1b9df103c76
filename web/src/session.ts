/** Drives one open conversation: reads, resumes, sends and stops, until what is shown is what the server has. */
import {
  answerApproval,
  getConversation,
  openSession,
  postMessage,
  Refused,
  stopJob,
  stopTurn,
  type Conversation,
  type Message,
  type SessionState,
} from "./api.ts";
import { activity, EMPTY, reduce, type Action, type Sent, type View } from "./convergence.ts";
import { newId } from "./ids.ts";
import { LiveTurn } from "./live.ts";
import { eventsOf, type Network } from "./network.ts";
import { encoded, release } from "./uploads.ts";

export interface Outside {
  changed(): void;
  unauthorized(): void;
  /** A turn began or ended here, or the title changed. */
  listChanged(): void;
}

export class Session {
  readonly name: string;
  view: View = EMPTY;
  private readonly abort = new AbortController();
  private readonly network: Network;
  private readonly outside: Outside;
  private live: LiveTurn | null = null;
  private reading: Promise<void> | null = null;
  private readAgain = false;
  private following = false;
  /** The addresses of files sent from here, most of them the server's; a picture is shown from ours until it has them. */
  private readonly held = new Set<string>();

  constructor(name: string, fresh: boolean, network: Network, outside: Outside) {
    this.name = name;
    this.network = network;
    this.outside = outside;
    this.dispatch({ type: "open", fresh });
    if (!fresh) void this.follow();
  }

  close(): void {
    this.abort.abort();
    this.live?.close();
    this.network.forget(this);
    for (const url of this.held) release(url);
  }

  send(parts: Message["parts"], replaces: string | null = null): void {
    for (const part of parts) if (part.type === "file") this.held.add(part.url);
    const message: Message = { id: newId("msg"), role: "user", parts };
    this.post({ key: message.id, message, replaces, turn: null, refusal: null });
  }

  /** Asks for another answer in the place of `answer`. */
  again(answer: string): void {
    this.post({ key: newId("again"), message: null, replaces: answer, turn: null, refusal: null });
  }

  discard(key: string): void {
    this.dispatch({ type: "discard", key });
  }

  private stop(turn: string): void {
    this.dispatch({ type: "stopping", turn });
    void this.persist((signal) => stopTurn(this.name, turn, signal)).catch(() => {
      this.dispatch({ type: "stopping", turn: null });
      this.read();
    });
  }

  /** Allows or denies what an approval asks; somebody else may have answered first. */
  answer(approval: string, approved: boolean, reason: string): void {
    const before = this.view.answering[approval];
    if (before && before.problem === null) return;
    this.dispatch({ type: "answering", approval, given: { approved, problem: null } });
    void this.record(approval, approved, reason);
  }

  private async record(approval: string, approved: boolean, reason: string): Promise<void> {
    try {
      const recorded = await this.persist((signal) => answerApproval(approval, approved, reason, signal));
      this.dispatch({ type: "answered", recorded });
    } catch (error) {
      if (this.abort.signal.aborted) return;
      this.dispatch({ type: "answering", approval, given: { approved, problem: told(error) } });
    }
    this.read();
    this.outside.listChanged();
  }

  /** Stops the turn that runs or waits here; once is enough. */
  stopRunning(): void {
    const { turn, stopping } = activity(this.view);
    if (turn !== null && !stopping) this.stop(turn);
  }

  /** Stops a background job; it stands there until its end is told. */
  stopJob(job: string): void {
    this.dispatch({ type: "stopping job", job });
    void this.persist((signal) => stopJob(this.name, job, signal))
      .catch(() => undefined)
      .finally(() => this.read());
  }

  /** Reads the conversation; calls that come while it is being read make one more reading. */
  read(): void {
    if (this.reading) {
      this.readAgain = true;
      return;
    }
    this.reading = this.readOnce().finally(() => {
      this.reading = null;
      if (this.readAgain && !this.abort.signal.aborted) {
        this.readAgain = false;
        this.read();
      }
    });
  }

  /** A conversation that names a turn without records must not be asked in a tight loop. */
  private async readLater(): Promise<void> {
    const who = {};
    await this.network.pause(who, 1, this.abort.signal);
    this.network.forget(who);
    if (!this.abort.signal.aborted) this.read();
  }

  private dispatch(action: Action): void {
    const next = reduce(this.view, action);
    if (next === this.view) return;
    this.view = next;
    this.outside.changed();
  }

  /** Repeats a request until the server answers it one way or the other. */
  private async persist<T>(attempt: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const { signal } = this.abort;
    const who = {};
    for (let count = 1; ; count++) {
      try {
        const answer = await attempt(signal);
        this.network.works(who);
        return answer;
      } catch (error) {
        const final = error instanceof Refused && error.status !== 401 && !error.passing;
        if (final || signal.aborted) {
          this.network.forget(who);
          throw error;
        }
        if (error instanceof Refused && error.status === 401) this.outside.unauthorized();
        await this.network.pause(who, count, signal);
      }
    }
  }

  private async readOnce(): Promise<void> {
    const asked = this.view.tick;
    let conversation: Conversation;
    try {
      conversation = await this.persist((signal) => getConversation(this.name, signal));
    } catch {
      if (!this.abort.signal.aborted) this.dispatch({ type: "missing" });
      return;
    }
    if (this.abort.signal.aborted) return;
    if (asked !== this.view.tick) {
      this.readAgain = true;
      return;
    }
    this.dispatch({ type: "history", asked, conversation });
    if (this.live && this.live.turn !== conversation.turn?.id) {
      this.live.close();
      this.live = null;
    }
    const { turn, messages } = conversation;
    if (turn && !this.live) this.watch(turn.id, messages.find(({ id }) => id === turn.messageId) ?? null);
  }

  private watch(turn: string, before: Message | null, response?: Response): void {
    this.live?.close();
    this.dispatch({ type: "live", turn, message: null });
    this.live = new LiveTurn(
      turn,
      before,
      this.network,
      {
        message: (message) => this.dispatch({ type: "live", turn, message }),
        over: (finished) => {
          this.live = null;
          this.dispatch({ type: "over", turn });
          if (finished) this.read();
          else void this.readLater();
          this.outside.listChanged();
        },
        refused: () => {
          this.live = null;
          this.outside.unauthorized();
        },
      },
      response,
    );
  }

  private post(sent: Sent): void {
    this.dispatch({ type: "send", sent });
    void this.admit(sent);
  }

  /** A message has its own id, so a repeat after a cut is the same message; "answer again" is repeated by its key. */
  private async admit(sent: Sent): Promise<void> {
    const body = {
      id: this.name,
      trigger: sent.message ? "submit-message" : "regenerate-message",
      messages: sent.message ? [sent.message] : [],
      ...(sent.replaces === null ? {} : { messageId: sent.replaces }),
    };
    let response: Response;
    try {
      const whole = await encoded(body);
      response = await this.persist((signal) => postMessage(whole, signal));
    } catch (error) {
      if (this.abort.signal.aborted) return;
      if (sent.message === null) {
        // The answer is gone when an earlier attempt was taken and only its reply was lost.
        this.dispatch({ type: "discard", key: sent.key });
        this.read();
      } else {
        const tooLarge = error instanceof Refused && error.status === 413;
        this.dispatch({ type: "refused", key: sent.key, why: told(error), tooLarge });
      }
      return;
    }
    const turn = response.headers.get("x-workflow-run-id") ?? "";
    this.dispatch({ type: "accepted", key: sent.key, turn });
    // A message that the running turn takes in is answered there.
    if (this.live === null && turn) this.watch(turn, null, response.status === 202 ? undefined : response);
    else void response.body?.cancel();
    void this.follow();
    this.read();
    this.outside.listChanged();
  }

  /** The session stream says when anything begins or ends here, in whichever tab it was asked. */
  private async follow(): Promise<void> {
    if (this.following) return;
    this.following = true;
    const { signal } = this.abort;
    let seen = "";
    for (let attempt = 1; !signal.aborted; attempt++) {
      try {
        const response = await openSession(this.name, signal);
        this.network.works(this);
        // What was missed between two connections is not told again in the same words.
        seen = "";
        for await (const events of eventsOf(response, this.network)) {
          if (signal.aborted) return;
          attempt = 1;
          const state = JSON.parse(events.at(-1)!.data) as SessionState;
          // While people are asked, answers to some of what is asked change nothing but the version.
          const version = state.turn === null && state.last?.outcome === "waiting" ? events.at(-1)!.id : "";
          const now = JSON.stringify([state.title, state.turn?.id, state.turn?.status, state.turn?.stopping, state.queued, state.jobs, state.last?.id, state.last?.outcome, version]);
          if (now === seen) continue;
          if (seen !== "") this.outside.listChanged();
          seen = now;
          this.read();
        }
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Refused && error.status === 401) this.outside.unauthorized();
        else if (error instanceof Refused && !error.passing) {
          this.following = false;
          this.network.forget(this);
          this.dispatch({ type: "missing" });
          return;
        }
      }
      await this.network.pause(this, attempt, signal);
    }
  }
}

function told(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
