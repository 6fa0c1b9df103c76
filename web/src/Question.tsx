import { ActionBarPrimitive, ComposerPrimitive, MessagePrimitive, useAuiState } from "@assistant-ui/react";
import { useEffect, useRef, type ComponentProps } from "react";
import { Chips } from "./Chips.tsx";
import { CopyButton } from "./CopyButton.tsx";
import { FileView } from "./Files.tsx";
import { Icon } from "./Icon.tsx";
import { shownOf } from "./messages.ts";
import { fileProps } from "./Parts.tsx";
import type { Session } from "./session.ts";
import { useWords } from "./settings.tsx";

const attached: NonNullable<ComponentProps<typeof MessagePrimitive.Attachments>["children"]> = ({ attachment }) =>
  attachment.content.map((part, index) => part.type === "file" && <FileView key={index} {...fileProps(part)} />);

export function Question({ session }: { session: Session }) {
  const editing = useAuiState(({ message }) => message.composer.isEditing);
  const edited = useRef(false);
  const pencil = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    // Who used the keyboard to edit goes on where the editing began.
    if (edited.current && !editing) pencil.current?.focus();
    edited.current = editing;
  }, [editing]);
  return editing ? <Editing /> : <Asked session={session} pencil={pencil} />;
}

function Editing() {
  const words = useWords();
  return (
    <MessagePrimitive.Root asChild>
      <article className="question editing">
        <ComposerPrimitive.Root>
          <Chips />
          <ComposerPrimitive.Input autoFocus minRows={2} maxRows={12} aria-label={words.edit} />
          <div className="actions open">
            <ComposerPrimitive.Cancel className="small">{words.cancel}</ComposerPrimitive.Cancel>
            <ComposerPrimitive.Send className="small primary">{words.resend}</ComposerPrimitive.Send>
          </div>
        </ComposerPrimitive.Root>
      </article>
    </MessagePrimitive.Root>
  );
}

interface AskedProps {
  session: Session;
  pencil: React.RefObject<HTMLButtonElement | null>;
}

function Asked({ session, pencil }: AskedProps) {
  const words = useWords();
  const shown = useAuiState(({ message }) => shownOf(message));
  const text = useAuiState(({ message }) => message.parts.flatMap((part) => (part.type === "text" ? part.text : [])).join("\n\n"));
  const files = useAuiState(({ message }) => message.attachments?.length ?? 0);
  if (!shown) return null;
  const report = shown.message.metadata?.turnwire?.operation;
  if (report) {
    return (
      <MessagePrimitive.Root asChild>
        <article className="report" data-role="report" data-status={report.status} aria-label={words.report}>
          {text}
        </article>
      </MessagePrimitive.Root>
    );
  }
  const refused = shown.state === "refused";
  return (
    <MessagePrimitive.Root asChild>
      <article className="question" data-role="user" data-state={shown.state} aria-label={words.you}>
        {files > 0 && (
          <div className="files">
            <MessagePrimitive.Attachments>{attached}</MessagePrimitive.Attachments>
          </div>
        )}
        {text && <div className="bubble">{text}</div>}
        {refused && (
          <p className="bad" role="alert">
            {words.notSent} {shown.sent?.tooLarge && words.tooMuch} {shown.sent?.refusal}
          </p>
        )}
        <ActionBarPrimitive.Root className={refused ? "actions open" : "actions"}>
          {refused && (
            <button className="small" onClick={() => session.discard(shown.key)}>
              {words.discard}
            </button>
          )}
          {shown.state !== "sending" && (
            <>
              {text && <CopyButton />}
              <ActionBarPrimitive.Edit ref={pencil} className="icon" aria-label={words.edit} title={words.edit}>
                <Icon name="edit" />
              </ActionBarPrimitive.Edit>
            </>
          )}
        </ActionBarPrimitive.Root>
      </article>
    </MessagePrimitive.Root>
  );
}
