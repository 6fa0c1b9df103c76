/** What assistant-ui asks for when somebody picks, pastes or drops a file. */
import type { AttachmentAdapter, CompleteAttachment, PendingAttachment } from "@assistant-ui/react";
import { newId } from "./ids.ts";

const LARGEST_BYTES = 25 * 1024 * 1024;

/** Files become data URLs when they are sent. What cannot be taken or read is told to `complain`, and refused. */
export function attachments(tooLarge: string, complain: (problem: string) => void): AttachmentAdapter {
  const refused = (problem: string) => {
    complain(problem);
    return new Error(problem);
  };
  return {
    accept: "*",
    async add({ file }): Promise<PendingAttachment> {
      if (file.size > LARGEST_BYTES) throw refused(`${file.name}: ${tooLarge}`);
      return {
        id: newId("file"),
        type: file.type.startsWith("image/") ? "image" : "file",
        name: file.name,
        contentType: file.type,
        file,
        status: { type: "requires-action", reason: "composer-send" },
      };
    },
    async remove() {
      // Nothing was sent yet, so there is nothing to take back.
    },
    async send(attachment): Promise<CompleteAttachment> {
      const { file, name } = attachment;
      const data = await dataUrl(file).catch((error: unknown) => {
        throw refused(`${name}: ${error instanceof Error ? error.message : String(error)}`);
      });
      const mimeType = file.type || "application/octet-stream";
      return { ...attachment, status: { type: "complete" }, content: [{ type: "file", data, mimeType, filename: name }] };
    },
  };
}

function dataUrl(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onerror = () => reject(reader.error ?? new Error("cannot be read"));
    reader.onload = () => resolve(reader.result as string);
    reader.readAsDataURL(file);
  });
}
