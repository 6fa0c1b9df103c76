import { createContext, useContext, useId, useState, type FormEvent } from "react";
import { toolName, type Answering, type ToolPart } from "./approvals.ts";
import { useWords } from "./settings.tsx";

interface Approvals {
  answering: Readonly<Record<string, Answering>>;
  answer(approval: string, approved: boolean, reason: string): void;
}

/** How calls that ask are answered. */
export const ApprovalsContext = createContext<Approvals>({ answering: {}, answer: () => undefined });

const REASON_CHARS = 1000;

interface Props {
  part: Extract<ToolPart, { state: "approval-requested" }>;
  /** An approval can be answered once its turn has ended. */
  ready: boolean;
  /** Where the focus goes when the buttons go. */
  leave(): void;
}

/** Asks whether a call may be made. */
export function Approval({ part, ready, leave }: Props) {
  const words = useWords();
  const { answering, answer } = useContext(ApprovalsContext);
  const [reason, setReason] = useState("");
  const id = useId();
  const given = answering[part.approval.id];
  const sending = given !== undefined && given.problem === null;
  const barred = !ready || sending;
  const decide = (approved: boolean) => {
    leave();
    answer(part.approval.id, approved, approved ? "" : reason.trim());
  };
  const deny = (event: FormEvent) => {
    event.preventDefault();
    if (!barred) decide(false);
  };
  return (
    <div className="approval" role="group" aria-labelledby={id} data-approval={part.approval.id}>
      <p id={id}>
        {words.mayRun} <code>{toolName(part)}</code>
      </p>
      <form className="choices" onSubmit={deny}>
        <button type="button" className="small primary" disabled={barred} onClick={() => decide(true)}>
          {sending && given.approved ? words.sending : words.allow}
        </button>
        <span className="denial">
          <button type="submit" className="small" disabled={barred}>
            {sending && !given.approved ? words.sending : words.deny}
          </button>
          <input
            value={reason}
            maxLength={REASON_CHARS}
            disabled={barred}
            placeholder={words.denyReason}
            aria-label={words.denyReason}
            onChange={(event) => setReason(event.target.value)}
          />
        </span>
      </form>
      {given?.problem && (
        <p className="bad" role="alert">
          {words.notSent} {given.problem}
        </p>
      )}
    </div>
  );
}

/** What was answered, and why. */
export function Verdict({ part }: { part: ToolPart }) {
  const words = useWords();
  const approval = part.approval;
  if (approval?.approved === undefined) return null;
  const why = { superseded: words.superseded, expired: words.expired }[approval.reason ?? ""] ?? approval.reason;
  return (
    <p className="verdict">
      <strong>{approval.approved ? words.allowed : words.denied}</strong>
      {why && `: ${why}`}
    </p>
  );
}
