import { AssistantRuntimeProvider, useExternalStoreRuntime, type AppendMessage } from "@assistant-ui/react";
import { createContext, useContext, useMemo, useRef, useState, type ReactNode } from "react";
import { ApprovalsContext } from "./Approval.tsx";
import { attachments } from "./attachments.ts";
import { activity, shown, type Shown } from "./convergence.ts";
import { converted, partsOf, steady } from "./messages.ts";
import type { Session } from "./session.ts";
import { useWords } from "./settings.tsx";
import { usePicked, type Store } from "./store.ts";

interface Problem {
  problem: string;
  complain(problem: string): void;
}

const ProblemContext = createContext<Problem>({ problem: "", complain: () => undefined });

/** What is wrong with a file that somebody wanted to attach. */
export function useProblem(): Problem {
  return useContext(ProblemContext);
}

interface Props {
  store: Store;
  session: Session;
  children: ReactNode;
}

/** Gives assistant-ui's primitives what `convergence.ts` shows, and the session what people do with them. */
export function Runtime({ store, session, children }: Props) {
  const words = useWords();
  const view = usePicked(store, () => session.view);
  const { busy } = activity(view);
  const before = useRef<Shown[]>([]);
  const messages = useMemo(() => (before.current = steady(before.current, shown(view))), [view]);
  const [problem, complain] = useState("");
  const doings = useMemo(() => actions(store, session, complain), [store, session]);
  const adapter = useMemo(
    () => ({
      ...doings,
      messages,
      isRunning: busy,
      convertMessage: converted,
      adapters: { attachments: attachments(words.tooLarge, complain) },
    }),
    [doings, messages, busy, words],
  );
  const runtime = useExternalStoreRuntime(adapter);
  const told = useMemo(() => ({ problem, complain }), [problem]);
  const { answering } = view;
  const approvals = useMemo(() => ({ answering, answer: session.answer.bind(session) }), [answering, session]);
  return (
    <ProblemContext value={told}>
      <ApprovalsContext value={approvals}>
        <AssistantRuntimeProvider runtime={runtime}>{children}</AssistantRuntimeProvider>
      </ApprovalsContext>
    </ProblemContext>
  );
}

function actions(store: Store, session: Session, complain: Problem["complain"]) {
  const send = (message: AppendMessage) => {
    complain("");
    session.send(partsOf(message));
    store.named();
  };
  return {
    onNew: async (message: AppendMessage) => send(message),
    onEdit: async (message: AppendMessage) => {
      const edited = shown(session.view).find(({ key }) => key === message.sourceId);
      if (!edited) return;
      if (edited.state === "refused") session.discard(edited.key);
      const replaces = edited.state === "refused" ? (edited.sent?.replaces ?? null) : edited.message.id;
      session.send(partsOf(message, edited.message), replaces);
      store.named();
    },
    onReload: async (_parent: string | null, { sourceId }: { sourceId: string | null }) => {
      if (sourceId !== null) session.again(sourceId);
    },
    onCancel: async () => session.stopRunning(),
    // The server keeps the line of waiting questions; with a queue assistant-ui lets people send while a turn runs.
    queue: {
      items: [],
      steerItems: [],
      enqueue: send,
      steer: send,
      move: () => undefined,
      edit: () => undefined,
      remove: () => undefined,
    },
  };
}
