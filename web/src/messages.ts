/** Between the messages of `convergence.ts` and those of assistant-ui. */
import type {
  AppendMessage,
  CompleteAttachment,
  MessageStatus,
  PartProviderMetadata,
  ThreadMessageLike,
} from "@assistant-ui/react";
import type { Message, Outcome } from "./api.ts";
import { isTool, toolName } from "./approvals.ts";
import type { Shown } from "./convergence.ts";
import { nameOf } from "./names.ts";

type Part = Message["parts"][number];
type FilePart = Extract<Part, { type: "file" }>;
type LikePart = Exclude<ThreadMessageLike["content"], string>[number];

const ENDS: Record<Outcome, MessageStatus> = {
  done: { type: "complete", reason: "stop" },
  stopped: { type: "incomplete", reason: "cancelled" },
  failed: { type: "incomplete", reason: "error" },
  interrupted: { type: "incomplete", reason: "other" },
  waiting: { type: "requires-action", reason: "interrupt" },
};
const RUNNING = { type: "running" } as const;
const COMPLETE = { type: "complete" } as const;

/** The same list as objects that stay the same while nothing about them changed. */
export function steady(before: Shown[], now: Shown[]): Shown[] {
  const known = new Map(before.map((one) => [one.key, one]));
  const next = now.map((one) => {
    const old = known.get(one.key);
    return old && old.message === one.message && old.state === one.state && old.sent === one.sent ? old : one;
  });
  return next.length === before.length && next.every((one, index) => one === before[index]) ? before : next;
}

/** One message as assistant-ui takes it; `metadata.custom.shown` is what it was made from. */
export function converted(shown: Shown): ThreadMessageLike {
  const { message, key } = shown;
  const common = { id: key, metadata: { custom: { shown } } };
  if (message.role !== "assistant") {
    return {
      ...common,
      role: "user",
      content: message.parts.flatMap((part) => (part.type === "text" ? [{ type: "text", text: part.text }] : [])),
      attachments: message.parts.filter((part) => part.type === "file").map(attachmentOf),
    };
  }
  const live = shown.state === "live";
  return {
    ...common,
    role: "assistant",
    status: live ? RUNNING : ENDS[message.metadata?.turnwire?.outcome ?? "done"],
    content: contentOf(message.parts, live),
  };
}

export function shownOf(message: { metadata: { custom: Record<string, unknown> } }): Shown | undefined {
  return message.metadata.custom.shown as Shown | undefined;
}

function contentOf(parts: Part[], live: boolean): LikePart[] {
  const calls = new Set<string>();
  return parts.flatMap((part): LikePart[] => {
    if (part.type === "text" || part.type === "reasoning") {
      return [{ type: part.type, text: part.text, status: live && part.state === "streaming" ? RUNNING : COMPLETE }];
    }
    if (part.type === "file") return [likeFile(part)];
    if (!isTool(part)) return [];
    // Two parts of one name would be one part to assistant-ui.
    let toolCallId = part.toolCallId;
    while (calls.has(toolCallId)) toolCallId += "'";
    calls.add(toolCallId);
    const ended =
      part.state === "output-available"
        ? { result: part.output ?? null }
        : part.state === "output-error"
          ? { result: part.errorText, isError: true }
          : {};
    return [{ type: "tool-call", toolCallId, toolName: part.title || toolName(part), argsText: "", args: {}, artifact: part, ...ended }];
  });
}

function likeFile(part: FilePart) {
  return {
    type: "file" as const,
    data: part.url,
    mimeType: part.mediaType,
    filename: nameOf(part),
    sourceType: "url" as const,
    providerMetadata: part.providerMetadata as PartProviderMetadata | undefined,
  };
}

function attachmentOf(part: FilePart, index: number): CompleteAttachment {
  return {
    id: `${index} ${part.url.slice(0, 100)}`,
    type: part.mediaType.startsWith("image/") ? "image" : "file",
    name: nameOf(part),
    contentType: part.mediaType,
    status: COMPLETE,
    content: [likeFile(part)],
  };
}

/** The parts that a message from a composer is sent as; files that stood in `edited` are sent as they were. */
export function partsOf(message: AppendMessage, edited?: Message): Part[] {
  const before = new Map(
    edited?.parts.flatMap((part) => (part.type === "file" ? [[part.url, part] as const] : [])) ?? [],
  );
  const text = message.content
    .flatMap((part) => (part.type === "text" ? [part.text] : []))
    .join("\n\n")
    .trim();
  const files = (message.attachments ?? []).flatMap(({ content }) =>
    content.flatMap((part): Part[] =>
      part.type === "file"
        ? [before.get(part.data) ?? { type: "file", mediaType: part.mimeType, filename: part.filename, url: part.data }]
        : [],
    ),
  );
  return text ? [{ type: "text", text }, ...files] : files;
}
