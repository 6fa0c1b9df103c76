import { ComposerPrimitive, useAui, useAuiState } from "@assistant-ui/react";
import { useEffect, useRef, useState } from "react";
import { Chips } from "./Chips.tsx";
import { activity } from "./convergence.ts";
import { Drafts } from "./drafts.ts";
import { Icon } from "./Icon.tsx";
import { useProblem } from "./Runtime.tsx";
import type { Session } from "./session.ts";
import { useWords } from "./settings.tsx";
import { usePicked, type Store } from "./store.ts";

const drafts = new Drafts(sessionStorage);

export function Composer({ store, session }: { store: Store; session: Session }) {
  const words = useWords();
  const { problem, complain } = useProblem();
  const stoppable = usePicked(store, () => activity(session.view).turn !== null);
  const stopping = usePicked(store, () => activity(session.view).stopping);
  const ready = useAuiState(({ composer }) => composer.canSend);
  const add = useAddFiles();
  const picker = useRef<HTMLInputElement>(null);
  useDraft(usePicked(store, () => (session.view.phase === "new" ? "" : session.name)));
  const dropping = useDropsElsewhere(add);
  const stop = stopping ? words.stopping : words.stop;
  return (
    <footer className="foot">
      <ComposerPrimitive.Root className="composer" onSubmit={() => complain("")}>
        <Chips />
        {/* Escape stops wherever the focus is, so the page listens for it; a run must not take the focus away. */}
        <ComposerPrimitive.Input
          autoFocus
          cancelOnEscape={false}
          unstable_focusOnRunStart={false}
          unstable_focusOnScrollToBottom={false}
          rows={1}
          maxRows={10}
          placeholder={words.ask}
          aria-label={words.ask}
          aria-describedby="hint"
        />
        <div className="tools">
          {/* The primitive's own button makes a field for each click; this one is there for the keyboard and for tests. */}
          <input
            ref={picker}
            type="file"
            multiple
            hidden
            onChange={(event) => {
              add(event.target.files ?? []);
              event.target.value = "";
            }}
          />
          <button type="button" className="icon" aria-label={words.attach} title={words.attach} onClick={() => picker.current?.click()}>
            <Icon name="attach" />
          </button>
          <span className="bad" role="alert">
            {problem}
          </span>
          {stoppable && (
            <ComposerPrimitive.Cancel className="round stop" aria-label={stop} title={stop} disabled={stopping}>
              <Icon name="stop" />
            </ComposerPrimitive.Cancel>
          )}
          {(!stoppable || ready) && (
            <ComposerPrimitive.Send className="round" aria-label={words.send} title={words.send}>
              <Icon name="send" />
            </ComposerPrimitive.Send>
          )}
        </div>
      </ComposerPrimitive.Root>
      <p id="hint" className="hint">
        {words.hint}
      </p>
      {dropping && <div className="drop">{words.drop}</div>}
    </footer>
  );
}

function useAddFiles(): (files: Iterable<File>) => void {
  const aui = useAui();
  const { complain } = useProblem();
  return (files) => {
    complain("");
    // What cannot be taken was said to `complain` by the adapter.
    for (const file of files) void aui.composer.addAttachment(file).catch(() => undefined);
  };
}

/** What is typed for `name` is kept until it is sent, and stands there again after a reload or a look elsewhere. */
function useDraft(name: string): void {
  const aui = useAui();
  const text = useAuiState(({ composer }) => composer.text);
  const [kept] = useState(() => drafts.get(name));
  const last = useRef({ name, text: kept });
  useEffect(() => {
    if (kept) aui.composer.setText(kept);
  }, [aui, kept]);
  useEffect(() => {
    const before = last.current;
    if (before.text === text && before.name === name) return;
    // A first message gives its conversation a name; nothing is left under the old one.
    if (before.name !== name) drafts.set(before.name, "");
    last.current = { name, text };
    drafts.set(name, text);
  }, [name, text]);
}

/** Whether files are held over the page. Those dropped beside the conversation are attached too, not opened in its place. */
function useDropsElsewhere(add: (files: FileList) => void): boolean {
  const [over, setOver] = useState(false);
  useEffect(() => {
    const onOver = (event: DragEvent) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      setOver(true);
    };
    const onLeave = (event: DragEvent) => {
      if (event.relatedTarget === null) setOver(false);
    };
    const onDrop = (event: DragEvent) => {
      setOver(false);
      if (event.defaultPrevented || !event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      add(event.dataTransfer.files);
    };
    addEventListener("dragover", onOver);
    addEventListener("dragleave", onLeave);
    addEventListener("drop", onDrop);
    return () => {
      removeEventListener("dragover", onOver);
      removeEventListener("dragleave", onLeave);
      removeEventListener("drop", onDrop);
    };
  });
  return over;
}
