/** What people are asked before a tool runs, and what was answered. */
import type { Message, TurnState } from "./api.ts";

type Part = Message["parts"][number];
export type ToolPart = Extract<Part, { toolCallId: string }>;

/** An answer on its way, or the reason why the server did not take it. */
export interface Answering {
  approved: boolean;
  problem: string | null;
}

/** What the server recorded, whoever answered first. */
export interface Recorded {
  approval: string;
  approved: boolean;
  reason: string | null;
  first: boolean;
  /** The turn that goes on with the message, if one does. */
  turn: TurnState | null;
}

export function isTool(part: Part): part is ToolPart {
  return part.type === "dynamic-tool" || part.type.startsWith("tool-");
}

export function toolName(part: ToolPart): string {
  return part.type === "dynamic-tool" ? part.toolName : part.type.slice("tool-".length);
}

/** The calls of a message that wait for a person; none once its turn ended in any other way. */
export function openCalls(message: Message): ToolPart[] {
  if (message.metadata?.turnwire?.outcome !== "waiting") return [];
  return message.parts.filter(isTool).filter(({ state }) => state === "approval-requested");
}

/** `message` as it stands once `recorded` is told; the same object where it says nothing of it. */
export function answeredIn(message: Message, { approval, approved, reason }: Recorded): Message {
  const asks = (part: Part): part is ToolPart =>
    isTool(part) && part.state === "approval-requested" && part.approval.id === approval;
  if (!message.parts.some(asks)) return message;
  const answer = { id: approval, approved, ...(reason === null ? {} : { reason }) };
  const parts = message.parts.map((part) =>
    asks(part) ? ({ ...part, state: "approval-responded", approval: answer } as ToolPart) : part,
  );
  return { ...message, parts };
}

export type CallState = "asked" | "allowed" | "denied" | "done" | "failed" | "running";

/** How a call stands; `live` says whether the turn of its message runs, `waiting` whether that ended `waiting`. */
export function callState(part: ToolPart, live: boolean, waiting: boolean): CallState {
  switch (part.state) {
    case "output-available":
      return "done";
    case "output-error":
      return "failed";
    case "output-denied":
      return "denied";
    case "approval-requested":
      return live || waiting ? "asked" : "failed";
    case "approval-responded":
      if (!part.approval.approved) return "denied";
      return live ? "running" : waiting ? "allowed" : "failed";
    default:
      return live ? "running" : "failed";
  }
}
