import assert from "node:assert/strict";
import { test } from "node:test";
import { encoded, hold, release } from "./uploads.ts";

function bytes(count: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length: count }, (_, index) => (index * 7) % 256);
}

for (const size of [0, 1, 3 * 128 * 1024, 3 * 128 * 1024 + 1, 1_000_000]) {
  test(`a file of ${size} bytes is sent whole`, async () => {
    const content = bytes(size);
    const url = hold(new Blob([content], { type: "image/png" }));
    const body = await encoded({ text: 'says "blob:x"', parts: [{ url }, { url: "/files/1/a" }, { url }] });
    const sent = JSON.parse(await body.text()) as { text: string; parts: { url: string }[] };
    const whole = `data:image/png;base64,${Buffer.from(content).toString("base64")}`;
    assert.deepEqual(sent, { text: 'says "blob:x"', parts: [{ url: whole }, { url: "/files/1/a" }, { url: whole }] });
    release(url);
  });
}

test("a type that is none does not break what is sent", async () => {
  const url = hold(new Blob(["a"], { type: 'x"y' }));
  assert.deepEqual(JSON.parse(await (await encoded([{ url }])).text()), [{ url: "data:application/octet-stream;base64,YQ==" }]);
  release(url);
});

test("a file that was let go is not sent", async () => {
  const url = hold(new Blob(["a"]));
  release(url);
  assert.deepEqual(JSON.parse(await (await encoded([{ url }])).text()), [{ url }]);
});
