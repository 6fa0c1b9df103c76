import { useEffect, useRef, useState } from "react";
import type { Message } from "./api.ts";
import { openCalls, toolName } from "./approvals.ts";
import { activity } from "./convergence.ts";
import type { Session } from "./session.ts";
import { useWords } from "./settings.tsx";
import { usePicked, type Store } from "./store.ts";
import type { Words } from "./words.ts";

const SPOKEN_CHARS = 1000;

/** Says to screen readers that an answer is on its way, and what it says once it is whole. */
export function Announcer({ store, session }: { store: Store; session: Session }) {
  const words = useWords();
  const history = usePicked(store, () => session.view.history);
  const loading = usePicked(store, () => session.view.phase === "loading");
  const waiting = usePicked(store, () => activity(session.view).waiting);
  const known = useRef<Set<string> | null>(null);
  const [said, setSaid] = useState("");
  useEffect(() => {
    if (loading) return;
    const fresh = history.filter((message) => message.role === "assistant" && !known.current?.has(ended(message)));
    const first = known.current === null;
    known.current = new Set([...(known.current ?? []), ...fresh.map(ended)]);
    const newest = fresh.at(-1);
    if (newest && (!first || openCalls(newest).length > 0)) setSaid(spoken(newest, words));
  }, [history, loading, words]);
  useEffect(() => {
    if (waiting) setSaid(words.working);
  }, [waiting, words]);
  return (
    <p className="unseen" role="status">
      {said}
    </p>
  );
}

/** One end of an answer: a turn that goes on with it is another. */
function ended({ id, metadata }: Message): string {
  return `${id} ${metadata?.turnwire?.turn}`;
}

function spoken(answer: Message, words: Words): string {
  const { outcome = "done", reason = "" } = answer.metadata?.turnwire ?? {};
  const text = answer.parts.flatMap((part) => (part.type === "text" ? [part.text] : [])).join("\n");
  const short = text.length > SPOKEN_CHARS ? `${text.slice(0, SPOKEN_CHARS)} …` : text;
  const asks = openCalls(answer).map((call) => `${call.title || toolName(call)}: ${words.toolAsked}.`);
  if (asks.length > 0) return [short, ...asks].join("\n");
  return [outcome === "done" ? words.answerDone : `${words[outcome]} ${reason}`, short].join("\n");
}
