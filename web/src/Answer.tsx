import { ActionBarPrimitive, MessagePrimitive, useAuiState } from "@assistant-ui/react";
import type { ComponentProps } from "react";
import { openCalls } from "./approvals.ts";
import { CopyButton } from "./CopyButton.tsx";
import { Icon } from "./Icon.tsx";
import { shownOf } from "./messages.ts";
import { CallPart, FilePart, ReasoningPart, TextPart } from "./Parts.tsx";
import { useWords } from "./settings.tsx";

const drawn: ComponentProps<typeof MessagePrimitive.Parts>["children"] = ({ part }) => {
  switch (part.type) {
    case "text":
      return <TextPart />;
    case "reasoning":
      return <ReasoningPart />;
    case "file":
      return <FilePart />;
    case "tool-call":
      return <CallPart />;
    default:
      return <></>;
  }
};

export function Answer() {
  const words = useWords();
  const shown = useAuiState(({ message }) => shownOf(message));
  const last = useAuiState(({ message, thread }) => {
    const answer = thread.messages.findLast((one) => one.role === "assistant" && !one.metadata.isOptimistic);
    return !thread.isRunning && answer?.id === message.id;
  });
  // The report of a job that a person stopped says it all; no agent was asked.
  const noted = useAuiState(({ message, thread }) => {
    const before = thread.messages[thread.messages.findIndex(({ id }) => id === message.id) - 1];
    return before !== undefined && shownOf(before)?.message.metadata?.turnwire?.operation?.status === "stopped";
  });
  const copies = useAuiState(({ message }) => message.parts.some((part) => part.type === "text" && part.text !== ""));
  if (!shown) return null;
  const live = shown.state === "live";
  const told = shown.message.metadata?.turnwire;
  const outcome = live ? undefined : told?.outcome;
  const sources = shown.message.parts.filter((part) => part.type === "source-url");
  return (
    <MessagePrimitive.Root asChild>
      <article
        className="answer"
        data-role="assistant"
        data-state={live ? "live" : "settled"}
        data-outcome={outcome}
        aria-label={words.assistant}
      >
        <MessagePrimitive.Parts>{drawn}</MessagePrimitive.Parts>
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
        {outcome && outcome !== "done" && !(noted && outcome === "stopped") && (outcome !== "waiting" || openCalls(shown.message).length > 0) && (
          <div className={`outcome ${outcome}`}>
            <p>
              <strong>{words[outcome]}</strong> {told?.reason}
            </p>
          </div>
        )}
        <ActionBarPrimitive.Root className={last ? "actions open" : "actions"}>
          {!live && (
            <>
              {copies && <CopyButton />}
              {last && (
                <ActionBarPrimitive.Reload className="icon" aria-label={words.retry} title={words.retry}>
                  <Icon name="retry" />
                </ActionBarPrimitive.Reload>
              )}
              {told?.model && <span className="model">{told.model}</span>}
            </>
          )}
        </ActionBarPrimitive.Root>
      </article>
    </MessagePrimitive.Root>
  );
}

function safeUrl(url: string): string | undefined {
  return /^https?:/i.test(url) ? url : undefined;
}
