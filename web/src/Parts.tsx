import type { DynamicToolUIPart, ToolUIPart } from "ai";
import type { Message } from "./api.ts";
import { Icon } from "./Icon.tsx";
import { useWords } from "./settings.tsx";

type ToolPart = ToolUIPart | DynamicToolUIPart;

export function isTool(part: Message["parts"][number]): part is ToolPart {
  return part.type === "dynamic-tool" || part.type.startsWith("tool-");
}

export function Reasoning({ text, live }: { text: string; live: boolean }) {
  const words = useWords();
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

export function Tool({ part, live }: { part: ToolPart; live: boolean }) {
  const words = useWords();
  const name = part.title || (part.type === "dynamic-tool" ? part.toolName : part.type.slice("tool-".length));
  const state = part.state === "output-available" ? "done" : part.state === "output-error" || !live ? "failed" : "running";
  const label = { done: words.toolDone, failed: words.toolFailed, running: words.toolRunning }[state];
  const input = part.input ?? ("rawInput" in part ? part.rawInput : undefined);
  return (
    <details className={`fold tool ${state}`} data-tool={state}>
      <summary>
        <Icon name="chevron" />
        <code>{name}</code>
        <span className={`badge ${state}`}>{label}</span>
      </summary>
      {input !== undefined && <Value label={words.input} value={input} />}
      {part.state === "output-available" && <Value label={words.output} value={part.output} />}
      {part.state === "output-error" && <Value label={words.output} value={part.errorText} />}
    </details>
  );
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
