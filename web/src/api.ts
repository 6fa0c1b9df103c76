import type { UIMessage } from "ai";
import type { Recorded } from "./approvals.ts";
import { PAGE } from "./conversations.ts";

export type Outcome = "done" | "stopped" | "failed" | "interrupted" | "waiting";

/** What the server says about the turn that an answer came from. */
export interface TurnMetadata {
  turn?: string;
  outcome?: Outcome;
  reason?: string;
  model?: string;
  usage?: { inputTokens?: number; outputTokens?: number; totalTokens?: number };
  startedAt?: string;
  endedAt?: string;
  /** On a question: the background job whose result it is. */
  operation?: { id: string; name: string; status: "done" | "failed" | "stopped" };
}

/** A background job whose result is not here yet. */
export interface Job {
  id: string;
  name: string;
  status: "queued" | "running" | "done" | "failed" | "stopped";
  stopping: boolean;
  progress?: unknown;
}

export type Message = UIMessage<{ turnwire?: TurnMetadata }>;

export interface TurnState {
  id: string;
  status: "queued" | "running" | "finished";
  messageId: string;
  cursor: number;
  stopping: boolean;
  outcome?: Outcome;
  reason?: string;
}

export interface Conversation {
  id: string;
  title: string | null;
  messages: Message[];
  turn: TurnState | null;
  queued: string[];
  jobs: Job[];
}

export interface SessionState {
  id: string;
  title: string | null;
  turn: TurnState | null;
  queued: string[];
  jobs: Job[];
  last: TurnState | null;
}

export interface Listed {
  id: string;
  title: string | null;
  createdAt: number;
  updatedAt: number;
}

/** The server answered and said no. */
export class Refused extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** Whether the same request may succeed later, as when a server restarts. */
  get passing(): boolean {
    return this.status >= 500 || this.status === 429;
  }
}

/** The path that the page is served below, without a slash at its end: empty at the root of a host. */
const ROOT = new URL(".", location.href).pathname.slice(0, -1);
/** Where this server's files are. */
export const FILES = `${ROOT}/files/`;

const TOKEN = "turnwire.token";
let token = sessionStorage.getItem(TOKEN);

export function hasToken(): boolean {
  return token !== null;
}

/** Keeps the token for as long as this tab lives. */
export function setToken(value: string): void {
  token = value;
  sessionStorage.setItem(TOKEN, value);
}

/** A connection on which no answer has begun after so long is dead; an upload gets more by its size. */
const ANSWER_MS = 30_000;
const SLOWEST_BYTES_PER_MS = 8;

/** Fetches, and gives up when no answer begins. */
async function answered(path: string, init: RequestInit): Promise<Response> {
  const late = new AbortController();
  const upload = init.body instanceof Blob ? init.body.size / SLOWEST_BYTES_PER_MS : 0;
  const timer = setTimeout(() => late.abort(new Error("no answer came")), ANSWER_MS + upload);
  try {
    return await fetch(path, { ...init, signal: init.signal ? AbortSignal.any([init.signal, late.signal]) : late.signal });
  } finally {
    clearTimeout(timer);
  }
}

/** Fetches from an address of this server with the token; throws `Refused` for any answer that is not 2xx. */
export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (token !== null) headers.set("authorization", `Bearer ${token}`);
  const response = await answered(path, { ...init, headers, cache: init.cache ?? "no-store" });
  if (response.ok) return response;
  let code = "";
  let message = `${response.status} ${response.statusText}`.trim();
  try {
    const body = (await response.json()) as { error?: { code?: string; message?: string } };
    code = body.error?.code ?? "";
    message = body.error?.message ?? message;
  } catch {
    // A proxy in between answers in its own form; the status says enough.
  }
  throw new Refused(response.status, code, message);
}

const JSON_TYPE = { "content-type": "application/json", accept: "text/event-stream, application/json" };

function api(path: string, init: RequestInit = {}): Promise<Response> {
  return request(`${ROOT}/api/${path}`, init);
}

function chat(name: string): string {
  return `chat/${encodeURIComponent(name)}`;
}

export async function getConversation(name: string, signal: AbortSignal): Promise<Conversation> {
  return (await api(chat(name), { signal })).json() as Promise<Conversation>;
}

/** A page of the list, after the entry of time `before`; with `search` of those whose titles hold it. */
export async function listConversations(search: string, before?: number): Promise<Listed[]> {
  const query = new URLSearchParams({ limit: String(PAGE) });
  if (search) query.set("search", search);
  if (before !== undefined) query.set("before", String(before));
  const answer = (await (await api(`conversations?${query}`)).json()) as { conversations: Listed[] };
  return answer.conversations;
}

export function openSession(name: string, signal: AbortSignal): Promise<Response> {
  return api(`conversations/${encodeURIComponent(name)}/events`, { signal });
}

/** The turn's records from `cursor` on or, without one, the shortest replay and what follows. */
export function openTurn(turn: string, cursor: number | null, signal: AbortSignal): Promise<Response> {
  const from = cursor === null ? "" : `&startIndex=${cursor}`;
  return api(`${chat(turn)}/stream?ui=7${from}`, { signal });
}

export function postMessage(body: Blob, signal: AbortSignal): Promise<Response> {
  return api("chat?ui=7", { method: "POST", headers: JSON_TYPE, body, signal });
}

/** Answers an approval, and returns what was recorded: the first answer, whoever gave it. */
export async function answerApproval(approval: string, approved: boolean, reason: string, signal: AbortSignal): Promise<Recorded> {
  const body = JSON.stringify(reason ? { approved, reason } : { approved });
  const path = `approvals/${encodeURIComponent(approval)}`;
  return (await api(path, { method: "POST", headers: JSON_TYPE, body, signal })).json() as Promise<Recorded>;
}

/** Stops a background job that turns of `name` left behind. */
export async function stopJob(name: string, job: string, signal: AbortSignal): Promise<void> {
  await api(`${chat(name)}/jobs/${encodeURIComponent(job)}/stop`, { method: "POST", signal });
}

export async function stopTurn(name: string, turn: string, signal: AbortSignal): Promise<void> {
  await api(`${chat(name)}/stop`, { method: "POST", body: JSON.stringify({ turn }), signal });
}
