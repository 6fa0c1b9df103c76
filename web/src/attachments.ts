/** What assistant-ui asks for when somebody picks, pastes or drops a file. */
import type { AttachmentAdapter, CompleteAttachment, PendingAttachment } from "@assistant-ui/react";
import { newId } from "./ids.ts";
import { hold } from "./uploads.ts";

const LARGEST_BYTES = 25 * 1024 * 1024;

/** Files are held as they are until their message is posted. What cannot be taken is told to `complain`, and refused. */
export function attachments(tooLarge: string, complain: (problem: string) => void): AttachmentAdapter {
  return {
    accept: "*",
    async add({ file }): Promise<PendingAttachment> {
      if (file.size > LARGEST_BYTES) {
        const problem = `${file.name}: ${tooLarge}`;
        complain(problem);
        throw new Error(problem);
      }
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
      const mimeType = file.type || "application/octet-stream";
      return { ...attachment, status: { type: "complete" }, content: [{ type: "file", data: hold(file), mimeType, filename: name }] };
    },
  };
}
