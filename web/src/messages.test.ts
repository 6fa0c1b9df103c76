import assert from "node:assert/strict";
import { test } from "node:test";
import type { AppendMessage } from "@assistant-ui/react";
import type { Message } from "./api.ts";
import type { Shown } from "./convergence.ts";
import { converted, partsOf, steady } from "./messages.ts";

const FILE = {
  type: "file" as const,
  mediaType: "text/plain",
  url: "/files/f1/note.txt",
  providerMetadata: { turnwire: { name: "note.txt", size: 12 } },
};

function shown(message: Message, state: Shown["state"] = "settled"): Shown {
  return { key: message.id, message, state };
}

test("a message that did not change stays the same object", () => {
  const message: Message = { id: "a", role: "user", parts: [] };
  const before = steady([], [shown(message)]);
  assert.equal(steady(before, [shown(message)]), before);
  assert.notEqual(steady(before, [shown(message, "refused")])[0], before[0]);
});

test("files of a question are attachments, and an edit sends them as they were", () => {
  const message: Message = { id: "q", role: "user", parts: [{ type: "text", text: "look" }, FILE] };
  const like = converted(shown(message));
  assert.deepEqual(like.attachments?.map(({ name }) => name), ["note.txt"]);
  const edited = { content: [{ type: "text", text: " see " }], attachments: like.attachments } as unknown as AppendMessage;
  assert.deepEqual(partsOf(edited, message), [{ type: "text", text: "see" }, FILE]);
});

test("an answer says how it ended, and calls of one name stay two", () => {
  const call = { type: "dynamic-tool" as const, toolName: "look", toolCallId: "1", state: "output-available" as const, input: {}, output: 1 };
  const message: Message = { id: "a", role: "assistant", parts: [call, call], metadata: { turnwire: { outcome: "stopped" } } };
  const like = converted(shown(message));
  assert.deepEqual(like.status, { type: "incomplete", reason: "cancelled" });
  const names = (like.content as readonly { toolCallId?: string }[]).map(({ toolCallId }) => toolCallId);
  assert.equal(new Set(names).size, 2);
  assert.deepEqual(converted(shown(message, "live")).status, { type: "running" });
});
