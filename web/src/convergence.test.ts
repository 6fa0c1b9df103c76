import assert from "node:assert/strict";
import { test } from "node:test";
import type { Message, TurnState } from "./api.ts";
import { activity, EMPTY, reduce, shown, type Action, type Sent, type View } from "./convergence.ts";

function say(id: string, role: "user" | "assistant", text = id): Message {
  return { id, role, parts: [{ type: "text", text }] };
}

function turn(id: string): TurnState {
  return { id, status: "running", messageId: `answer-${id}`, cursor: 0, stopping: false };
}

function sent(id: string, more: Partial<Sent> = {}): Sent {
  return { key: id, message: say(id, "user"), replaces: null, turn: null, refusal: null, ...more };
}

function after(view: View, ...actions: Action[]): View {
  return actions.reduce(reduce, view);
}

function history(view: View, messages: Message[], running: TurnState | null = null, queued: string[] = []): Action {
  return { type: "history", asked: view.tick, conversation: { id: "c", title: "t", messages, turn: running, queued } };
}

const keys = (view: View) => shown(view).map(({ key }) => key);

test("a question moves from sent to history without ever standing there twice", () => {
  let view = after(EMPTY, { type: "open", fresh: true }, { type: "send", sent: sent("q") });
  assert.deepEqual(keys(view), ["q"]);
  view = after(view, { type: "accepted", key: "q", turn: "t1" }, { type: "live", turn: "t1", message: say("a", "assistant") });
  assert.deepEqual(keys(view), ["q", "a"]);
  view = after(view, history(view, [say("q", "user")], turn("t1")));
  assert.deepEqual(keys(view), ["q", "a"]);
  assert.equal(view.sent.length, 0);
});

test("a finished answer stands still until the history has it", () => {
  let view = after(EMPTY, { type: "open", fresh: false });
  view = after(view, history(view, [say("q", "user"), say("q2", "user")], turn("t1"), ["t2"]));
  view = after(view, { type: "live", turn: "t1", message: say("a", "assistant") });
  assert.deepEqual(keys(view), ["q", "a", "q2"]);
  view = after(view, { type: "over", turn: "t1" });
  assert.deepEqual(keys(view), ["q", "a", "q2"]);
  assert.equal(activity(view).turn, null);
});

test("what the server said before the answer ended does not take it away", () => {
  let view = after(EMPTY, { type: "open", fresh: false });
  view = after(view, history(view, [say("q", "user")], turn("t1")));
  const late = history(view, [say("q", "user")], turn("t1"));
  view = after(view, { type: "live", turn: "t1", message: say("a", "assistant") }, { type: "over", turn: "t1" }, late);
  assert.deepEqual(keys(view), ["q", "a"]);
  assert.equal(view.turn, null);
});

test("the history wins over an answer that is still being read", () => {
  let view = after(EMPTY, { type: "open", fresh: false }, { type: "live", turn: "t1", message: say("a", "assistant", "par") });
  view = after(view, history(view, [say("q", "user"), say("a", "assistant", "partial no more")]));
  assert.deepEqual(keys(view), ["q", "a"]);
  assert.equal(view.live, null);
});

test("an edit hides what it replaces at once", () => {
  let view = after(EMPTY, { type: "open", fresh: false });
  view = after(view, history(view, [say("q", "user"), say("a", "assistant")]));
  view = after(view, { type: "send", sent: sent("q'", { replaces: "q" }) });
  assert.deepEqual(keys(view), ["q'"]);
});

test("a refused message stays, with its reason, until it is discarded", () => {
  let view = after(EMPTY, { type: "open", fresh: true }, { type: "send", sent: sent("q") });
  view = after(view, { type: "refused", key: "q", why: "too large" }, { type: "send", sent: sent("q2") });
  assert.deepEqual(shown(view).map(({ state }) => state), ["refused", "sending"]);
  assert.deepEqual(keys(after(view, { type: "discard", key: "q" })), ["q2"]);
});

test("unchanged messages stay the same objects", () => {
  let view = after(EMPTY, { type: "open", fresh: false });
  view = after(view, history(view, [say("q", "user")]));
  const before = view.history[0];
  assert.equal(after(view, history(view, [say("q", "user")])).history[0], before);
});
