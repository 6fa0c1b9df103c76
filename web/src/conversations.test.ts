import assert from "node:assert/strict";
import { test } from "node:test";
import type { Listed } from "./api.ts";
import { extended, NONE, PAGE, refreshed } from "./conversations.ts";

function listed(from: number, to: number): Listed[] {
  const all: Listed[] = [];
  for (let at = from; at > to; at--) all.push({ id: `c${at}`, title: `Chat ${at}`, createdAt: at, updatedAt: at });
  return all;
}

const ids = (list: { entries: readonly Listed[] }) => list.entries.map(({ id }) => id);

test("a short page is the whole list", () => {
  assert.deepEqual(refreshed(NONE, listed(3, 0)), { entries: listed(3, 0), complete: true });
});

test("older pages stay when the newest one is read anew, and what moved up stands once", () => {
  let list = extended(refreshed(NONE, listed(250, 150)), listed(150, 50));
  assert.equal(list.complete, false);
  list = extended(list, listed(50, 0));
  assert.equal(list.complete, true);
  const moved = { ...listed(20, 19)[0]!, updatedAt: 251 };
  const after = refreshed(list, [moved, ...listed(250, 151)]);
  assert.equal(after.entries.length, 250);
  assert.equal(ids(after)[0], "c20");
  assert.equal(new Set(ids(after)).size, 250);
  assert.equal(after.complete, true);
  assert.ok(after.entries.length > PAGE);
});
