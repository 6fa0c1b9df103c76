import { useAuiState } from "@assistant-ui/react";
import { memo, useRef, useState } from "react";
import { Approval, Verdict } from "./Approval.tsx";
import { callState, toolName, type ToolPart } from "./approvals.ts";
import { FileView } from "./Files.tsx";
import { Icon } from "./Icon.tsx";
import { Markdown } from "./Markdown.tsx";
import { sizeOf } from "./names.ts";
import { useWords } from "./settings.tsx";

function useText(): [text: string, live: boolean] {
  const text = useAuiState(({ part }) => (part.type === "text" || part.type === "reasoning" ? part.text : ""));
  const live = useAuiState(({ part }) => part.status.type === "running");
  return [text, live];
}

export function TextPart() {
  const [text, live] = useText();
  return text ? <Markdown text={text} live={live} /> : null;
}

export function ReasoningPart() {
  const words = useWords();
  const [text, live] = useText();
  if (!text) return null;
  return (
    <details className="fold reasoning">
      <summary>
        <Icon name="chevron" />
        <span className={live ? "shimmer" : ""}>{live ? words.thinking : words.thought}</span>
      </summary>
      <div className="thoughts">{text}</div>
    </details>
  );
}

export function FilePart() {
  const part = useAuiState((state) => state.part);
  if (part.type !== "file") return null;
  return <FileView {...fileProps(part)} />;
}

/** What a file part of assistant-ui says, as `FileView` takes it. */
export function fileProps(part: { data: string; mimeType: string; filename?: string; providerMetadata?: unknown }) {
  const providerMetadata = part.providerMetadata as Record<string, Record<string, unknown>> | undefined;
  const size = sizeOf({ url: part.data, providerMetadata });
  return { url: part.data, mediaType: part.mimeType, name: part.filename ?? "", size };
}

export function CallPart() {
  const live = useAuiState(({ message }) => message.role === "assistant" && message.status?.type === "running");
  const waiting = useAuiState(({ message }) => message.role === "assistant" && message.status?.type === "requires-action");
  const part = useAuiState((state) => (state.part.type === "tool-call" ? (state.part.artifact as ToolPart) : null));
  return part && <Tool part={part} live={live} waiting={waiting} />;
}

interface ToolProps {
  part: ToolPart;
  live: boolean;
  /** Whether its turn ended because a person is asked. */
  waiting: boolean;
}

const Tool = memo(function Tool({ part, live, waiting }: ToolProps) {
  const words = useWords();
  const summary = useRef<HTMLElement>(null);
  const state = callState(part, live, waiting);
  const asked = state === "asked";
  // What somebody was asked here stays open when it is answered.
  const [opened, setOpened] = useState(asked);
  if (asked && !opened) setOpened(true);
  const label = {
    done: words.toolDone,
    failed: words.toolFailed,
    running: words.toolRunning,
    asked: words.toolAsked,
    allowed: words.toolAllowed,
    denied: words.toolDenied,
  }[state];
  const input = part.input ?? ("rawInput" in part ? part.rawInput : undefined);
  return (
    <details className={`fold tool ${state}`} data-tool={state} open={opened}>
      <summary ref={summary}>
        <Icon name="chevron" />
        <code>{part.title || toolName(part)}</code>
        <span className={`badge ${state}`}>{label}</span>
      </summary>
      {input !== undefined && <Value label={words.input} value={input} />}
      {asked && part.state === "approval-requested" && (
        <Approval part={part} ready={!live} leave={() => summary.current?.focus()} />
      )}
      <Verdict part={part} />
      {part.state === "output-available" && <Value label={words.output} value={part.output} />}
      {part.state === "output-error" && <Value label={words.output} value={part.errorText} />}
    </details>
  );
}, isSameCall);

/** The AI SDK copies a message with each of its deltas; what a tool was given and gave does not change after its state. */
function isSameCall(before: ToolProps, after: ToolProps): boolean {
  if (before.part === after.part) return before.live === after.live && before.waiting === after.waiting;
  const { state } = after.part;
  const stands = state === "input-available" || state === "output-error" || state === "output-denied" || (state === "output-available" && !after.part.preliminary);
  return stands && before.live && after.live && before.part.state === state && before.part.toolCallId === after.part.toolCallId;
}

const SHOWN_CHARS = 20_000;

function Value({ label, value }: { label: string; value: unknown }) {
  const text = typeof value === "string" ? value : (JSON.stringify(value, null, 2) ?? "");
  return (
    <div className="value">
      <span>{label}</span>
      <pre tabIndex={0}>{text.length > SHOWN_CHARS ? `${text.slice(0, SHOWN_CHARS)} …` : text}</pre>
    </div>
  );
}
