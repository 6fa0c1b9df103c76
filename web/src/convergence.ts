/** What one open conversation shows, as a pure function of what was read and done. */
import { answeredIn, type Answering, type Recorded } from "./approvals.ts";
import type { Conversation, Job, Message, TurnState } from "./api.ts";

export interface Live {
  turn: string;
  message: Message | null;
}

/** Something that this tab sent and that the history does not show yet. */
export interface Sent {
  key: string;
  /** Null for "answer again". */
  message: Message | null;
  /** The message that it replaces; this one and all that follow are hidden. */
  replaces: string | null;
  /** The turn that it became, once the server said so. */
  turn: string | null;
  refusal: string | null;
  /** Whether it was refused for its size. */
  tooLarge?: boolean;
}

export interface View {
  phase: "new" | "loading" | "ready" | "missing";
  title: string | null;
  history: Message[];
  turn: TurnState | null;
  queued: string[];
  jobs: Job[];
  live: Live | null;
  sent: Sent[];
  /** The turn that this tab asked to stop. */
  stopping: string | null;
  /** What this tab answers to approvals, by their id, until the server has recorded an answer. */
  answering: Readonly<Record<string, Answering>>;
  /** Grows with what makes older answers of the server out of date. */
  tick: number;
}

export type Action =
  | { type: "open"; fresh: boolean }
  | { type: "missing" }
  | { type: "history"; asked: number; conversation: Conversation }
  | { type: "live"; turn: string; message: Message | null }
  | { type: "over"; turn: string }
  | { type: "send"; sent: Sent }
  | { type: "accepted"; key: string; turn: string }
  | { type: "refused"; key: string; why: string; tooLarge: boolean }
  | { type: "discard"; key: string }
  | { type: "stopping"; turn: string | null }
  | { type: "stopping job"; job: string }
  | { type: "answering"; approval: string; given: Answering }
  | { type: "answered"; recorded: Recorded };

export const EMPTY: View = {
  phase: "new",
  title: null,
  history: [],
  turn: null,
  queued: [],
  jobs: [],
  live: null,
  sent: [],
  stopping: null,
  answering: {},
  tick: 0,
};

export function reduce(view: View, action: Action): View {
  switch (action.type) {
    case "open":
      return { ...EMPTY, phase: action.fresh ? "new" : "loading" };
    case "missing":
      return { ...view, phase: view.sent.length > 0 ? "ready" : "missing" };
    case "history":
      return action.asked === view.tick ? withHistory(view, action.conversation) : view;
    case "live":
      if (view.live?.turn === action.turn && action.message === null) return view;
      return { ...view, phase: "ready", live: { turn: action.turn, message: action.message } };
    case "over":
      return view.live?.turn === action.turn ? settled(view, view.live) : view;
    case "send":
      return { ...view, phase: "ready", sent: [...view.sent, action.sent] };
    case "accepted":
      return { ...view, tick: view.tick + 1, sent: changed(view.sent, action.key, { turn: action.turn }) };
    case "refused":
      return { ...view, sent: changed(view.sent, action.key, { refusal: action.why, tooLarge: action.tooLarge }) };
    case "discard":
      return { ...view, sent: view.sent.filter((one) => one.key !== action.key) };
    case "stopping":
      return { ...view, stopping: action.turn };
    case "stopping job":
      return { ...view, jobs: view.jobs.map((job) => (job.id === action.job ? { ...job, stopping: true } : job)) };
    case "answering":
      return { ...view, answering: { ...view.answering, [action.approval]: action.given } };
    case "answered":
      return withAnswer(view, action.recorded);
  }
}

/** What the server recorded stands there at once, and the turn that goes on with it. */
function withAnswer(view: View, recorded: Recorded): View {
  const { [recorded.approval]: _, ...answering } = view.answering;
  return {
    ...view,
    answering,
    history: view.history.map((message) => answeredIn(message, recorded)),
    turn: view.turn ?? (recorded.turn?.status === "finished" ? null : recorded.turn),
    tick: view.tick + 1,
  };
}

function changed(sent: Sent[], key: string, to: Partial<Sent>): Sent[] {
  return sent.map((one) => (one.key === key ? { ...one, ...to } : one));
}

/** The history is the truth: whatever it settles is no longer shown from anywhere else. */
function withHistory(view: View, conversation: Conversation): View {
  const { messages, turn, queued, jobs, title } = conversation;
  return {
    ...view,
    phase: "ready",
    title,
    turn,
    queued,
    jobs,
    history: kept(view.history, messages),
    live: view.live && view.live.turn === turn?.id ? view.live : null,
    sent: view.sent.filter((one) => one.turn === null && !messages.some(({ id }) => id === one.message?.id)),
    stopping: view.stopping === turn?.id ? view.stopping : null,
  };
}

/** `next`, with the objects of `before` where nothing changed, so that nothing is drawn again. */
function kept(before: Message[], next: Message[]): Message[] {
  const known = new Map(before.map((message) => [message.id, message]));
  return next.map((message) => {
    const old = known.get(message.id);
    return old && JSON.stringify(old) === JSON.stringify(message) ? old : message;
  });
}

/** The finished answer stays where it stands until the history is read again. */
function settled(view: View, live: Live): View {
  const asked = view.sent.find(({ turn }) => turn === live.turn);
  const sent = view.sent.filter((one) => one !== asked);
  const history = [...view.history];
  const cut = history.findIndex(({ id }) => id === asked?.replaces);
  if (cut >= 0) history.length = cut;
  if (asked?.message && !history.some(({ id }) => id === asked.message!.id)) history.push(asked.message);
  if (live.message) {
    const at = history.findIndex(({ id }) => id === live.message!.id);
    history.splice(at < 0 ? (asked ? history.length : liveAt(view, history)) : at, at < 0 ? 0 : 1, live.message);
  }
  return { ...view, history, sent, live: null, turn: null, stopping: null, tick: view.tick + 1 };
}

/** Where the running answer stands: before the questions that wait behind it. */
function liveAt(view: View, history: Message[]): number {
  let at = history.length;
  for (let waiting = view.queued.length; waiting > 0 && history[at - 1]?.role === "user"; waiting--) at--;
  return at;
}

export interface Shown {
  key: string;
  message: Message;
  state: "settled" | "live" | "sending" | "refused";
  sent?: Sent;
}

/** The messages from top to bottom, each id once. */
export function shown(view: View): Shown[] {
  let settledMessages = view.history;
  let cut = false;
  for (const { replaces } of view.sent) {
    const at = replaces === null ? -1 : settledMessages.findIndex(({ id }) => id === replaces);
    if (at >= 0) {
      settledMessages = settledMessages.slice(0, at);
      cut = true;
    }
  }
  const answer = view.live?.message ?? null;
  const goesOn = answer?.id ?? view.turn?.messageId;
  // A turn may go on with a message of the history; it stays where it stands.
  const list: Shown[] = settledMessages.map((message) =>
    message.id === goesOn
      ? { key: message.id, message: answer ?? message, state: "live" }
      : { key: message.id, message, state: "settled" },
  );
  const sent: Shown[] = view.sent
    .filter((one) => one.message !== null)
    .map((one) => ({ key: one.key, message: one.message!, state: one.refusal === null ? "sending" : "refused", sent: one }));
  const stands = view.history.some(({ id }) => id === answer?.id);
  const live: Shown[] = answer && !stands ? [{ key: answer.id, message: answer, state: "live" }] : [];
  if (view.sent.some((one) => one.turn !== null && one.turn === view.live?.turn)) {
    const asked = sent.findIndex((one) => one.sent!.turn === view.live!.turn);
    return unique([...list, ...sent.slice(0, asked + 1), ...live, ...sent.slice(asked + 1)]);
  }
  list.splice(cut ? list.length : liveAt(view, settledMessages), 0, ...live);
  return unique([...list, ...sent]);
}

function unique(list: Shown[]): Shown[] {
  const seen = new Set<string>();
  return list.filter(({ key }) => !seen.has(key) && seen.add(key));
}

/** Whether an answer is on its way, and which turn a stop would mean. */
export function activity(view: View): { busy: boolean; waiting: boolean; turn: string | null; stopping: boolean } {
  const turn = view.live?.turn ?? view.turn?.id ?? null;
  const sending = view.sent.some((one) => one.refusal === null);
  return {
    busy: turn !== null || sending,
    waiting: (turn !== null || sending) && !saysMore(view),
    turn,
    stopping: turn !== null && (view.stopping === turn || (view.turn?.id === turn && view.turn.stopping)),
  };
}

/** Whether the running answer has more to show than the history has of it. */
function saysMore({ live, history }: View): boolean {
  if (!live?.message) return false;
  const before = history.find(({ id }) => id === live.message!.id);
  return live.message.parts.filter(visible).length > (before?.parts.filter(visible).length ?? 0);
}

function visible(part: Message["parts"][number]): boolean {
  if (part.type === "step-start") return false;
  return !(part.type === "text" || part.type === "reasoning") || part.text.length > 0;
}
