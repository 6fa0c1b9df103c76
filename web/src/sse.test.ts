import assert from "node:assert/strict";
import { test } from "node:test";
import { EventParser } from "./sse.ts";

test("events are whole however the body is cut", () => {
  const body = ':\n\nid: 0\ndata: {"a":1}\n\nevent: state\ndata: x\ndata: y\n\n:\n\ndata: [DONE]\n\n';
  const whole = new EventParser().feed(body);
  assert.deepEqual(whole, [
    { id: "0", event: "message", data: '{"a":1}' },
    { id: null, event: "state", data: "x\ny" },
    { id: null, event: "message", data: "[DONE]" },
  ]);
  for (let at = 0; at <= body.length; at++) {
    const parser = new EventParser();
    assert.deepEqual([...parser.feed(body.slice(0, at)), ...parser.feed(body.slice(at))], whole);
  }
});
