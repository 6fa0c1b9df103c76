import { ThreadPrimitive, useThreadViewportStore } from "@assistant-ui/react";
import { useCallback, useEffect, useRef, type ComponentProps } from "react";
import { Answer } from "./Answer.tsx";
import { Announcer } from "./Announcer.tsx";
import { activity, shown } from "./convergence.ts";
import { Icon } from "./Icon.tsx";
import { Question } from "./Question.tsx";
import type { Session } from "./session.ts";
import { useWords } from "./settings.tsx";
import { usePicked, type Store } from "./store.ts";

interface Props {
  store: Store;
  session: Session;
}

export function Thread({ store, session }: Props) {
  const words = useWords();
  const busy = usePicked(store, () => activity(session.view).busy);
  const message = useCallback<NonNullable<ComponentProps<typeof ThreadPrimitive.Messages>["children"]>>(
    // assistant-ui puts an empty answer behind a question that waits; `Waiting` says that better.
    ({ message }) =>
      message.role === "user" ? <Question session={session} /> : message.metadata.isOptimistic ? null : <Answer />,
    [session],
  );
  return (
    <ThreadPrimitive.Root className="thread">
      <ThreadPrimitive.Viewport className="scroll" tabIndex={0} role="region" aria-label={words.thread}>
        {/* Every delta would be read out; `Announcer` says what is worth hearing. */}
        <Column store={store} session={session}>
          <div className="messages" role="log" aria-live="off" aria-busy={busy} aria-label={words.log}>
            <Empty store={store} session={session} />
            <ThreadPrimitive.Messages>{message}</ThreadPrimitive.Messages>
            <Waiting store={store} session={session} />
            <Jobs store={store} session={session} />
          </div>
        </Column>
        <ThreadPrimitive.ScrollToBottom className="icon newer" aria-label={words.newer} title={words.newer} behavior="instant">
          <Icon name="down" />
        </ThreadPrimitive.ScrollToBottom>
      </ThreadPrimitive.Viewport>
      <Announcer store={store} session={session} />
    </ThreadPrimitive.Root>
  );
}

/** Keeps the end in sight where the viewport does not: when pictures grow, and when a question joins the line. */
function Column({ store, session, children }: Props & { children: React.ReactNode }) {
  const viewport = useThreadViewportStore();
  const column = useRef<HTMLDivElement>(null);
  const asked = usePicked(store, () => session.view.sent.length);
  useEffect(() => {
    const observer = new ResizeObserver(() => {
      const { isAtBottom, scrollToBottom } = viewport.getState();
      if (isAtBottom) scrollToBottom({ behavior: "instant" });
    });
    observer.observe(column.current!);
    return () => observer.disconnect();
  }, [viewport]);
  useEffect(() => {
    if (asked > 0) viewport.getState().scrollToBottom({ behavior: "instant" });
  }, [asked, viewport]);
  return (
    <div className="column" ref={column}>
      {children}
    </div>
  );
}

function Waiting({ store, session }: Props) {
  const words = useWords();
  const waiting = usePicked(store, () => activity(session.view).waiting);
  const queued = usePicked(store, () => session.view.turn?.status === "queued");
  if (!waiting) return null;
  return (
    <div className="working">
      <span className="pulse" aria-hidden="true">
        <i />
        <i />
        <i />
      </span>
      {queued ? words.queued : words.working}
    </div>
  );
}

/** What turns left behind and is still being done. */
function Jobs({ store, session }: Props) {
  const words = useWords();
  const jobs = usePicked(store, () => session.view.jobs);
  if (jobs.length === 0) return null;
  return (
    <ul className="jobs" aria-label={words.job}>
      {jobs.map(({ id, name, progress, stopping }) => (
        <li key={id} className="job" data-job={id}>
          <span className="dot" aria-hidden="true" />
          {words.job}: {name}
          {progress !== undefined && <span className="progress">{typeof progress === "string" ? progress : JSON.stringify(progress)}</span>}
          <button
            type="button"
            className="small"
            aria-label={`${stopping ? words.stopping : words.stopJob} ${name}`}
            disabled={stopping}
            onClick={() => session.stopJob(id)}
          >
            {stopping ? words.stopping : words.stop}
          </button>
        </li>
      ))}
    </ul>
  );
}

function Empty({ store, session }: Props) {
  const words = useWords();
  const phase = usePicked(store, () => session.view.phase);
  const busy = usePicked(store, () => activity(session.view).busy);
  const some = usePicked(store, () => shown(session.view).length > 0);
  if (some) return null;
  if (phase === "loading") return <p className="none">{words.loading}</p>;
  if (phase === "missing") return <p className="none">{words.missing}</p>;
  if (busy) return null;
  return (
    <div className="welcome">
      <h2>{words.welcome}</h2>
      <p>{words.welcomeMore}</p>
    </div>
  );
}
