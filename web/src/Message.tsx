import { memo, useRef, useState } from "react";
import type { Message } from "./api.ts";
import type { Shown } from "./convergence.ts";
import { FileView, nameOf, sizeOf } from "./Files.tsx";
import { Icon } from "./Icon.tsx";
import { Markdown } from "./Markdown.tsx";
import { Reasoning, Tool, isTool } from "./Parts.tsx";
import { useWords } from "./settings.tsx";

type Part = Message["parts"][number];

function textOf(message: Message): string {
  return message.parts.flatMap((part) => (part.type === "text" ? [part.text] : [])).join("\n\n");
}

interface QuestionProps {
  shown: Shown;
  resend(parts: Part[]): void;
  discard(): void;
}

export function Question({ shown, resend, discard }: QuestionProps) {
  const words = useWords();
  const [draft, setDraft] = useState<string | null>(null);
  const { message, state } = shown;
  const files = message.parts.filter((part) => part.type === "file");
  if (draft !== null) {
    const go = () => {
      setDraft(null);
      resend([...(draft.trim() ? [{ type: "text" as const, text: draft.trim() }] : []), ...files]);
    };
    return (
      <article className="question editing">
        <textarea
          autoFocus
          aria-label={words.edit}
          value={draft}
          rows={Math.min(draft.split("\n").length + 1, 12)}
          onChange={(event) => setDraft(event.target.value)}
          onKeyDown={(event) => {
            if (event.key === "Escape") {
              event.preventDefault();
              setDraft(null);
            } else if (event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing) {
              event.preventDefault();
              go();
            }
          }}
        />
        <div className="actions open">
          <button className="small" onClick={() => setDraft(null)}>
            {words.cancel}
          </button>
          <button className="small primary" disabled={!draft.trim() && files.length === 0} onClick={go}>
            {words.resend}
          </button>
        </div>
      </article>
    );
  }
  return (
    <article className="question" data-role="user" data-state={state} aria-label={words.you}>
      {files.length > 0 && (
        <div className="files">
          {files.map((part, index) => (
            <FileView key={index} url={part.url} mediaType={part.mediaType} name={nameOf(part)} size={sizeOf(part)} />
          ))}
        </div>
      )}
      {textOf(message) && <div className="bubble">{textOf(message)}</div>}
      {state === "refused" && (
        <p className="bad" role="alert">
          {words.notSent} {shown.sent?.refusal}
        </p>
      )}
      <div className={state === "refused" ? "actions open" : "actions"}>
        {state === "refused" && (
          <button className="small" onClick={discard}>
            {words.discard}
          </button>
        )}
        {state !== "sending" && (
          <>
            <CopyButton text={textOf(message)} />
            <button className="icon" aria-label={words.edit} title={words.edit} onClick={() => setDraft(textOf(message))}>
              <Icon name="edit" />
            </button>
          </>
        )}
      </div>
    </article>
  );
}

interface AnswerProps {
  message: Message;
  live: boolean;
  again: (() => void) | null;
}

export const Answer = memo(
  function Answer({ message, live, again }: AnswerProps) {
    const words = useWords();
    const told = message.metadata?.turnwire;
    const sources = message.parts.filter((part) => part.type === "source-url");
    const outcome = live ? undefined : told?.outcome;
    return (
      <article
        className="answer"
        data-role="assistant"
        data-state={live ? "live" : "settled"}
        data-outcome={outcome}
        aria-label={words.assistant}
      >
        {message.parts.map((part, index) => (
          <PartView key={index} part={part} live={live} />
        ))}
        {sources.length > 0 && (
          <ul className="sources" aria-label={words.sources}>
            {sources.map((source) => (
              <li key={source.sourceId}>
                <a href={safeUrl(source.url)} target="_blank" rel="noopener noreferrer">
                  {source.title || source.url}
                </a>
              </li>
            ))}
          </ul>
        )}
        {outcome && outcome !== "done" && (
          <div className={`outcome ${outcome}`}>
            <p>
              <strong>{words[outcome]}</strong> {told?.reason}
            </p>
          </div>
        )}
        <div className={again ? "actions open" : "actions"}>
          {!live && (
            <>
              {textOf(message) && <CopyButton text={textOf(message)} />}
              {again && (
                <button className="icon" aria-label={words.retry} title={words.retry} onClick={again}>
                  <Icon name="retry" />
                </button>
              )}
              {told?.model && <span className="model">{told.model}</span>}
            </>
          )}
        </div>
      </article>
    );
  },
  (before, after) =>
    before.message === after.message && before.live === after.live && (before.again === null) === (after.again === null),
);

function safeUrl(url: string): string | undefined {
  return /^https?:/i.test(url) ? url : undefined;
}

function PartView({ part, live }: { part: Part; live: boolean }) {
  if (part.type === "text") return part.text ? <Markdown text={part.text} live={live && part.state === "streaming"} /> : null;
  if (part.type === "reasoning") return <Reasoning text={part.text} live={live && part.state === "streaming"} />;
  if (part.type === "file") {
    return <FileView url={part.url} mediaType={part.mediaType} name={nameOf(part)} size={sizeOf(part)} />;
  }
  if (isTool(part)) return <Tool part={part} live={live} />;
  return null;
}

function CopyButton({ text }: { text: string }) {
  const words = useWords();
  const [copied, setCopied] = useState(false);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const copy = async () => {
    await navigator.clipboard?.writeText(text);
    setCopied(true);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setCopied(false), 1500);
  };
  const label = copied ? words.copied : words.copy;
  return (
    <button className="icon" aria-label={label} title={label} onClick={() => void copy()}>
      <Icon name={copied ? "check" : "copy"} />
    </button>
  );
}
