import { useEffect, useRef, useState, type ClipboardEvent, type KeyboardEvent } from "react";
import type { Message } from "./api.ts";
import { readableSize } from "./Files.tsx";
import { Icon } from "./Icon.tsx";
import { newId } from "./ids.ts";
import { useWords } from "./settings.tsx";

const LARGEST_BYTES = 25 * 1024 * 1024;
const TALLEST_PX = 240;

interface Attached {
  key: string;
  file: File;
  preview: string | null;
}

interface Props {
  busy: boolean;
  stopping: boolean;
  send(parts: Message["parts"]): void;
  stop(): void;
}

export function Composer({ busy, stopping, send, stop }: Props) {
  const words = useWords();
  const [text, setText] = useState("");
  const [files, setFiles] = useState<Attached[]>([]);
  const [problem, setProblem] = useState("");
  const [reading, setReading] = useState(false);
  const area = useRef<HTMLTextAreaElement>(null);
  const picker = useRef<HTMLInputElement>(null);

  useEffect(() => area.current?.focus({ preventScroll: true }), []);
  useEffect(() => {
    const element = area.current!;
    element.style.height = "auto";
    element.style.height = `${Math.min(element.scrollHeight, TALLEST_PX)}px`;
  }, [text]);

  const add = (more: Iterable<File>) => {
    const taken: Attached[] = [];
    setProblem("");
    for (const file of more) {
      if (file.size > LARGEST_BYTES) setProblem(`${file.name}: ${words.tooLarge}`);
      else {
        const preview = /^image\/(png|jpeg|gif|webp|avif)$/.test(file.type) ? URL.createObjectURL(file) : null;
        taken.push({ key: newId("file"), file, preview });
      }
    }
    setFiles((before) => [...before, ...taken]);
  };
  const remove = (gone: Attached) => {
    if (gone.preview) URL.revokeObjectURL(gone.preview);
    setFiles((before) => before.filter((one) => one !== gone));
  };
  const dropping = useDropping(add);

  const ready = (text.trim() !== "" || files.length > 0) && !reading;
  const go = async () => {
    if (!ready) return;
    setReading(true);
    try {
      const parts: Message["parts"] = await Promise.all(files.map(({ file }) => filePart(file)));
      if (text.trim()) parts.unshift({ type: "text", text: text.trim() });
      send(parts);
      for (const { preview } of files) if (preview) URL.revokeObjectURL(preview);
      setText("");
      setFiles([]);
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
    } finally {
      setReading(false);
    }
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    void go();
  };
  const onPaste = (event: ClipboardEvent) => {
    if (event.clipboardData.files.length === 0) return;
    event.preventDefault();
    add(event.clipboardData.files);
  };

  return (
    <footer className="foot">
      <div className="composer">
        {files.length > 0 && (
          <ul className="chips">
            {files.map((one) => (
              <li key={one.key} className="chip">
                {one.preview ? <img src={one.preview} alt="" /> : <Icon name="file" />}
                <span className="file-name">{one.file.name}</span>
                <span className="file-size">{readableSize(one.file.size)}</span>
                <button className="icon" aria-label={`${words.remove}: ${one.file.name}`} onClick={() => remove(one)}>
                  <Icon name="close" />
                </button>
              </li>
            ))}
          </ul>
        )}
        <textarea
          ref={area}
          rows={1}
          value={text}
          placeholder={words.ask}
          aria-label={words.ask}
          aria-describedby="hint"
          onChange={(event) => setText(event.target.value)}
          onKeyDown={onKeyDown}
          onPaste={onPaste}
        />
        <div className="tools">
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
          <button className="icon" aria-label={words.attach} title={words.attach} onClick={() => picker.current?.click()}>
            <Icon name="attach" />
          </button>
          <span className="bad" role="alert">
            {problem}
          </span>
          {busy && (
            <button className="round stop" aria-label={stopping ? words.stopping : words.stop} title={stopping ? words.stopping : words.stop} disabled={stopping} onClick={stop}>
              <Icon name="stop" />
            </button>
          )}
          {(!busy || ready) && (
            <button className="round" aria-label={words.send} title={words.send} disabled={!ready} onClick={() => void go()}>
              <Icon name="send" />
            </button>
          )}
        </div>
      </div>
      <p id="hint" className="hint">
        {words.hint}
      </p>
      {dropping && <div className="drop">{words.drop}</div>}
    </footer>
  );
}

function filePart(file: File): Promise<Message["parts"][number]> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onerror = () => reject(new Error(`${file.name}: ${reader.error?.message ?? ""}`));
    reader.onload = () =>
      resolve({
        type: "file",
        mediaType: file.type || "application/octet-stream",
        filename: file.name,
        url: reader.result as string,
      });
    reader.readAsDataURL(file);
  });
}

/** Takes files dropped anywhere on the page; whether some are held over it now. */
function useDropping(add: (files: FileList) => void): boolean {
  const [over, setOver] = useState(false);
  useEffect(() => {
    const holdsFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
    const onOver = (event: DragEvent) => {
      if (!holdsFiles(event)) return;
      event.preventDefault();
      setOver(true);
    };
    const onLeave = (event: DragEvent) => {
      if (event.relatedTarget === null) setOver(false);
    };
    const onDrop = (event: DragEvent) => {
      setOver(false);
      if (!holdsFiles(event)) return;
      event.preventDefault();
      add(event.dataTransfer!.files);
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
