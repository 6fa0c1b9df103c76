import { AttachmentPrimitive, ComposerPrimitive, useAuiState } from "@assistant-ui/react";
import { useEffect, useState } from "react";
import { Icon } from "./Icon.tsx";
import { readableSize } from "./names.ts";
import { useWords } from "./settings.tsx";

const chip = () => <Chip />;

/** The files that the composer around it holds. */
export function Chips() {
  const some = useAuiState(({ composer }) => composer.attachments.length > 0);
  return (
    some && (
      <ul className="chips">
        <ComposerPrimitive.Attachments>{chip}</ComposerPrimitive.Attachments>
      </ul>
    )
  );
}

function Chip() {
  const words = useWords();
  const { file, name } = useAuiState(({ attachment }) => attachment);
  const preview = usePreview(file);
  return (
    <AttachmentPrimitive.Root asChild>
      <li className="chip">
        {preview ? <img src={preview} alt="" /> : <Icon name="file" />}
        <span className="file-name">
          <AttachmentPrimitive.Name />
        </span>
        {file && <span className="file-size">{readableSize(file.size)}</span>}
        <AttachmentPrimitive.Remove className="icon" aria-label={`${words.remove}: ${name}`}>
          <Icon name="close" />
        </AttachmentPrimitive.Remove>
      </li>
    </AttachmentPrimitive.Root>
  );
}

function usePreview(file: File | undefined): string | null {
  const [url, setUrl] = useState<string | null>(null);
  useEffect(() => {
    if (!file || !/^image\/(png|jpeg|gif|webp|avif)$/.test(file.type)) return;
    const made = URL.createObjectURL(file);
    setUrl(made);
    return () => {
      URL.revokeObjectURL(made);
      setUrl(null);
    };
  }, [file]);
  return url;
}
