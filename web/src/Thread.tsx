import { useEffect, useLayoutEffect, useRef, useState } from "react";
import { activity, shown } from "./convergence.ts";
import { Icon } from "./Icon.tsx";
import { Answer, Question } from "./Message.tsx";
import type { Session } from "./session.ts";
import { useWords } from "./settings.tsx";

const NEAR_PX = 60;

export function Thread({ session, send }: { session: Session; send: Session["send"] }) {
  const words = useWords();
  const { view } = session;
  const list = shown(view);
  const doing = activity(view);
  const box = useRef<HTMLElement>(null);
  const column = useRef<HTMLDivElement>(null);
  const follows = useRef(true);
  const [away, setAway] = useState(false);

  const toEnd = () => {
    const element = box.current!;
    element.scrollTop = element.scrollHeight;
  };
  useLayoutEffect(() => {
    if (follows.current) toEnd();
  });
  useEffect(() => {
    // Pictures, formulas and highlighting change heights after they are drawn.
    const observer = new ResizeObserver(() => follows.current && toEnd());
    observer.observe(column.current!);
    return () => observer.disconnect();
  }, []);
  const asked = view.sent.length;
  useEffect(() => {
    if (asked > 0) {
      follows.current = true;
      toEnd();
    }
  }, [asked]);

  const onScroll = () => {
    const element = box.current!;
    follows.current = element.scrollHeight - element.scrollTop - element.clientHeight < NEAR_PX;
    setAway(!follows.current);
  };
  const lastAnswer = list.findLast(({ message }) => message.role === "assistant");

  return (
    <div className="thread">
      <section className="scroll" ref={box} onScroll={onScroll} tabIndex={-1}>
        <div className="column" ref={column} role="log" aria-live="polite" aria-busy={doing.busy} aria-label={words.log}>
          {list.length === 0 && <Empty phase={view.phase} busy={doing.busy} />}
          {list.map((one) =>
            one.message.role === "user" ? (
              <Question
                key={one.key}
                shown={one}
                resend={(parts) => {
                  if (one.state === "refused") session.discard(one.key);
                  send(parts, one.state === "refused" ? (one.sent?.replaces ?? null) : one.message.id);
                }}
                discard={() => session.discard(one.key)}
              />
            ) : (
              <Answer
                key={one.key}
                message={one.message}
                live={one.state === "live"}
                again={one === lastAnswer && !doing.busy ? () => session.again(one.message.id) : null}
              />
            ),
          )}
          {doing.waiting && (
            <div className="working" role="status">
              <span className="pulse" aria-hidden="true">
                <i />
                <i />
                <i />
              </span>
              {view.turn?.status === "queued" ? words.queued : words.working}
            </div>
          )}
        </div>
      </section>
      {away && (
        <button
          className="icon newer"
          aria-label={words.newer}
          onClick={() => {
            follows.current = true;
            toEnd();
          }}
        >
          <Icon name="down" />
        </button>
      )}
    </div>
  );
}

function Empty({ phase, busy }: { phase: string; busy: boolean }) {
  const words = useWords();
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
