import assert from "node:assert/strict";
import { test } from "node:test";
import { Drafts } from "./drafts.ts";

function storage(): Pick<Storage, "getItem" | "setItem"> & { text: string | null } {
  return {
    text: null,
    getItem() {
      return this.text;
    },
    setItem(_, value) {
      this.text = value;
    },
  };
}

test("each conversation has its own draft, and an empty one is forgotten", () => {
  const kept = storage();
  new Drafts(kept).set("a", "first");
  new Drafts(kept).set("b", "second");
  assert.deepEqual([new Drafts(kept).get("a"), new Drafts(kept).get("b"), new Drafts(kept).get("c")], ["first", "second", ""]);
  new Drafts(kept).set("a", "");
  assert.equal(kept.text, '[["b","second"]]');
});

test("the drafts that were not touched for longest are forgotten first", () => {
  const drafts = new Drafts(storage());
  for (let index = 0; index < 40; index++) drafts.set(`c${index}`, "text");
  assert.deepEqual([drafts.get("c9"), drafts.get("c10"), drafts.get("c39")], ["", "text", "text"]);
  drafts.set("long", "x".repeat(199_990));
  assert.deepEqual([drafts.get("long").length, drafts.get("c39"), drafts.get("c37"), drafts.get("c36")], [199_990, "text", "", ""]);
});

test("a browser that keeps nothing, or nonsense, costs only the drafts", () => {
  const full = new Drafts({
    getItem: () => '{"a": 1}',
    setItem: () => {
      throw new DOMException("full", "QuotaExceededError");
    },
  });
  full.set("a", "text");
  assert.equal(full.get("a"), "");
});
