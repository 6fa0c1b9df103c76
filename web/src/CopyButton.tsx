import { ActionBarPrimitive, useAuiState } from "@assistant-ui/react";
import { Icon } from "./Icon.tsx";
import { useWords } from "./settings.tsx";

/** Copies the text of the message it stands in. */
export function CopyButton() {
  const words = useWords();
  const copied = useAuiState(({ message }) => message.isCopied);
  const label = copied ? words.copied : words.copy;
  return (
    <ActionBarPrimitive.Copy className="icon" aria-label={label} title={label} copiedDuration={1500}>
      <Icon name={copied ? "check" : "copy"} />
    </ActionBarPrimitive.Copy>
  );
}
