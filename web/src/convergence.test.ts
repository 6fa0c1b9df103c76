import assert from "node:assert/strict";
import { test } from "node:test";
import { callState, openCalls, type Recorded, type ToolPart } from "./approvals.ts";
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
  return { type: "history", asked: view.tick, conversation: { id: "c", title: "t", messages, turn: running, queued, jobs: [] } };
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

test("nothing is on its way between the end of an answer and the next reading", () => {
  let view = after(EMPTY, { type: "open", fresh: true }, { type: "send", sent: sent("q") }, { type: "accepted", key: "q", turn: "t1" });
  assert.equal(activity(view).busy, true);
  view = after(view, { type: "live", turn: "t1", message: say("a", "assistant") }, { type: "over", turn: "t1" });
  assert.deepEqual([keys(view), activity(view).busy], [["q", "a"], false]);
  view = after(view, { type: "send", sent: sent("q2") });
  assert.deepEqual([keys(view), activity(view).busy], [["q", "a", "q2"], true]);
});

test("an edit that is answered leaves nothing of what it replaced", () => {
  let view = after(EMPTY, { type: "open", fresh: false });
  view = after(view, history(view, [say("q", "user"), say("a", "assistant")]));
  view = after(view, { type: "send", sent: sent("q'", { replaces: "q" }) }, { type: "accepted", key: "q'", turn: "t2" });
  view = after(view, { type: "send", sent: sent("next") }, { type: "live", turn: "t2", message: say("a'", "assistant") });
  assert.deepEqual(keys(view), ["q'", "a'", "next"]);
  view = after(view, { type: "over", turn: "t2" });
  assert.deepEqual(keys(view), ["q'", "a'", "next"]);
  const again: Sent = { key: "again", message: null, replaces: "a'", turn: "t3", refusal: null };
  view = after(view, { type: "discard", key: "next" }, { type: "send", sent: again });
  view = after(view, { type: "live", turn: "t3", message: say("b", "assistant") }, { type: "over", turn: "t3" });
  assert.deepEqual([keys(view), activity(view).busy], [["q'", "b"], false]);
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
  view = after(view, { type: "refused", key: "q", why: "too large", tooLarge: true }, { type: "send", sent: sent("q2") });
  assert.deepEqual(shown(view).map(({ state }) => state), ["refused", "sending"]);
  assert.deepEqual(keys(after(view, { type: "discard", key: "q" })), ["q2"]);
});

test("unchanged messages stay the same objects", () => {
  let view = after(EMPTY, { type: "open", fresh: false });
  view = after(view, history(view, [say("q", "user")]));
  const before = view.history[0];
  assert.equal(after(view, history(view, [say("q", "user")])).history[0], before);
});

const ASKED = { id: "m.1" };
const CALL = { type: "tool-pay" as const, toolCallId: "p", state: "approval-requested" as const, input: 5, approval: ASKED };

/** An answer that asks before it pays. */
function asking(outcome: "waiting" | "done" = "waiting"): Message {
  return { id: "a", role: "assistant", parts: [{ type: "text", text: "Let me see." }, CALL], metadata: { turnwire: { turn: "t1", outcome } } };
}

/** What the turn that goes on with it shows: what stood there, and `more`. */
function goingOn(...more: Message["parts"]): Message {
  const answered = { ...CALL, state: "approval-responded" as const, approval: { ...ASKED, approved: true as const } };
  return { ...asking(), parts: [asking().parts[0]!, answered, ...more] };
}

function waiting(): View {
  const view = after(EMPTY, { type: "open", fresh: false });
  return after(view, history(view, [say("q", "user"), asking()]));
}

function recorded(more: Partial<Recorded> = {}): Action {
  const going = { ...turn("t2"), messageId: "a" };
  return { type: "answered", recorded: { approval: "m.1", approved: true, reason: null, first: true, turn: going, ...more } };
}

const states = (view: View) => shown(view).map(({ key, state }) => `${key} ${state}`);
const call = (view: View) => shown(view).flatMap(({ message }) => message.parts.filter((part) => part.type === "tool-pay"))[0];

test("a turn that goes on keeps its message where it stands, once, and alive until it ends", () => {
  let view = waiting();
  assert.deepEqual([states(view), activity(view).busy], [["q settled", "a settled"], false]);
  view = after(view, { type: "answering", approval: "m.1", given: { approved: true, problem: null } }, recorded());
  assert.deepEqual([states(view), activity(view).turn, view.answering], [["q settled", "a live"], "t2", {}]);
  assert.equal(activity(view).waiting, true);
  view = after(view, history(view, [say("q", "user"), goingOn(), say("q2", "user")], { ...turn("t2"), messageId: "a" }, ["t3"]));
  view = after(view, { type: "live", turn: "t2", message: null });
  assert.deepEqual(states(view), ["q settled", "a live", "q2 settled"]);
  view = after(view, { type: "live", turn: "t2", message: goingOn() });
  assert.equal(activity(view).waiting, true);
  view = after(view, { type: "live", turn: "t2", message: goingOn({ type: "text", text: "Bought." }) });
  assert.deepEqual(states(view), ["q settled", "a live", "q2 settled"]);
  assert.equal(shown(view)[1]!.message.parts.length, 3);
  assert.equal(activity(view).waiting, false);
  view = after(view, { type: "over", turn: "t2" });
  assert.deepEqual(states(view), ["q settled", "a settled", "q2 settled"]);
  assert.equal(shown(view)[1]!.message.parts.length, 3);
});

test("what the server recorded is shown at once, and no older reading takes it back", () => {
  const view = waiting();
  const late = history(view, view.history);
  const denied = after(view, recorded({ approved: false, reason: "too dear", first: false, turn: null }), late);
  assert.deepEqual(call(denied), { ...CALL, state: "approval-responded", approval: { ...ASKED, approved: false, reason: "too dear" } });
  assert.deepEqual([states(denied), activity(denied).busy], [["q settled", "a settled"], false]);
});

test("an answer to another approval changes nothing here", () => {
  const view = waiting();
  assert.equal(after(view, recorded({ approval: "other", turn: null })).history[1], view.history[1]);
});

test("an answer whose turn has ended already leaves nothing running", () => {
  const view = after(waiting(), recorded({ first: false, turn: { ...turn("t2"), messageId: "a", status: "finished" } }));
  assert.equal(activity(view).busy, false);
});

test("an edit hides a message that a turn goes on with", () => {
  let view = after(waiting(), recorded(), { type: "live", turn: "t2", message: goingOn({ type: "text", text: "Bought." }) });
  view = after(view, { type: "send", sent: sent("q'", { replaces: "q" }) });
  assert.deepEqual(keys(view), ["q'"]);
});

test("only calls that still ask are open, and only where the turn waits", () => {
  assert.deepEqual(openCalls(asking()).map(({ toolCallId }) => toolCallId), ["p"]);
  assert.deepEqual(openCalls(asking("done")), []);
  assert.deepEqual(openCalls(goingOn()), []);
});

test("a call says how it stands", () => {
  const [, asked] = asking().parts as [unknown, ToolPart];
  const [, allowed] = goingOn().parts as [unknown, ToolPart];
  const denied = { ...allowed, approval: { ...ASKED, approved: false } } as ToolPart;
  assert.deepEqual([callState(asked, true, false), callState(asked, false, true), callState(asked, false, false)], ["asked", "asked", "failed"]);
  assert.deepEqual([callState(allowed, true, false), callState(allowed, false, true), callState(allowed, false, false)], ["running", "allowed", "failed"]);
  assert.deepEqual([callState(denied, true, false), callState({ ...denied, state: "output-denied" } as ToolPart, false, false)], ["denied", "denied"]);
});
