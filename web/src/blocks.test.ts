import assert from "node:assert/strict";
import { test } from "node:test";
import { createElement } from "react";
import { renderToStaticMarkup } from "react-dom/server";
import ReactMarkdown from "react-markdown";
import remarkGfm from "remark-gfm";
import remarkMath from "remark-math";
import { Splitter } from "./blocks.ts";

const PLUGINS = [remarkGfm, remarkMath];

const known = new Map<string, string>();

function drawn(text: string): string {
  let html = known.get(text);
  if (html === undefined) {
    html = renderToStaticMarkup(createElement(ReactMarkdown, { remarkPlugins: PLUGINS, children: text }));
    known.set(text, html);
  }
  return html;
}

function drawnInBlocks(splitter: Splitter, text: string): string {
  const { blocks, definitions } = splitter.split(text);
  return blocks.map((block) => drawn(definitions ? `${definitions}\n\n${block}` : block)).join("\n");
}

const TEXTS: Record<string, string> = {
  paragraphs: "One.\n\nTwo *is* here\nand goes on.\n\n\n\nThree.\n",
  headings: "# A\ntext\n## B\n\nUnder\n---\n\nmore\n#not a heading\n",
  "loose and tight lists": "- a\n- b\n\n- c\n\n  more of c\n\n      code in c\n\n1. x\n2. y\n   - z\n\n\n3. w\n\nend",
  "indented lists": "  - a\n  - b\n    - c\n\n   1. d\n   2. e\n",
  "fences with blank lines": "Look:\n\n```python\na = 1\n\n\nb[0]: int = 2\n```\n\nand\n\n~~~\n```\n\n~~~\n\ndone",
  "a fence in a list": "- a\n\n  ```js\n  x\n\n  y\n  ```\n- b\n\nend",
  "a fence that a list leaves": "- a\n  ```\n\nout\n  ```\n\nin\n",
  tables: "| a | b |\n| - | -: |\n| 1 | 2 |\n\n| c |\n| - |\n| [x] |\n",
  quotes: "> a\n>\n> b\nlazy\n\n> c\n\n- > d\n\n  > e\n",
  "links defined later": "See [the page][p] and [p].\n\n- [q]\n\n> [p]: https://example.org/p 'title'\n\n[q]: https://example.org/q\n\nend",
  "links defined twice": "[p]: /first\n\n[p]\n\n[p]: /second\n\n[p]\n",
  "only definitions at the end": "[p]\n\nmiddle\n\n[p]: /x\n[q]: /y\n",
  footnotes: "One[^1] and two[^2].\n\n[^2]: second\n\ntext\n\n[^1]: first\n\n    goes on\n",
  html: "<div>\n\n*a*\n\n</div>\n\n<!-- one\n\ntwo -->\n\n<pre>\n\nx\n</pre>\n\nend",
  formulas: "Now\n\n$$\na\n\nb\n$$\n\nand $x$ here\n\n- $$\n  y\n\n  z\n  $$\n\nend",
  "code by indentation": "a\n\n    code\n\n\n    more\n\nb\n\n\tcode\n",
  tasks: "- [ ] a\n- [x] b\n\n* * *\n\n- c\n",
  "line ends": "a\r\n\r\n- b\r\n- c\r\n\r\nd\r\n",
  chinese: "第一段。\n\n- 一\n- 二\n\n## 标题\n\n`代码`\n",
};

for (const [name, text] of Object.entries(TEXTS)) {
  test(`in blocks, however much of it is there, it looks like the whole: ${name}`, () => {
    const growing = new Splitter([remarkMath]);
    for (let end = 1; end <= text.length; end += 2) {
      const part = text.slice(0, end);
      assert.equal(drawnInBlocks(growing, part), drawn(part), JSON.stringify(part));
    }
    for (const step of [3, 7, 40]) {
      const jumping = new Splitter([remarkMath]);
      for (let end = 0; end < text.length + step; end += step) jumping.split(text.slice(0, end));
      assert.equal(drawnInBlocks(jumping, text), drawn(text));
    }
  });
}

test("text put together from everything looks like the whole", () => {
  // A small generator with a fixed beginning, so that a failure comes back.
  let seed = 7;
  const below = (limit: number) => (seed = (seed * 48271) % 2147483647) % limit;
  const pieces = Object.values(TEXTS).filter((text) => !text.includes("[^"));
  for (let round = 0; round < 40; round++) {
    const lines = Array.from({ length: 4 }, () => pieces[below(pieces.length)]!.split("\n"))
      .flatMap((some) => some.slice(below(some.length)))
      .map((line) => (below(6) === 0 ? `  ${line}` : line));
    const text = lines.join("\n");
    const splitter = new Splitter([remarkMath]);
    for (let end = 0; end < text.length; end += 1 + below(60)) splitter.split(text.slice(0, end));
    assert.equal(drawnInBlocks(splitter, text), drawn(text), JSON.stringify(text));
  }
});

test("only the last block changes while text is added", () => {
  const splitter = new Splitter();
  const text = Array.from({ length: 60 }, (_, index) => `Paragraph ${index} has a few words.\n\n`).join("");
  let before: string[] = [];
  for (let end = 0; end <= text.length; end += 5) {
    const { blocks } = splitter.split(text.slice(0, end));
    assert.deepEqual(blocks.slice(0, before.length - 1), before.slice(0, -1));
    before = blocks;
  }
  assert.ok(before.length >= 59 && before.at(-1)!.length < 100);
});

test("text that was rewritten is split anew", () => {
  const splitter = new Splitter();
  splitter.split("One.\n\nTwo.\n\nThree.\n\n");
  assert.equal(drawnInBlocks(splitter, "Other.\n\nText."), drawn("Other.\n\nText."));
});

test("a formula in brackets is never cut", () => {
  const splitter = new Splitter([], true);
  const text = "Now\n\n\\[\na\n\n- b\n\nc\n\\]\n\nend\n\nof it\n\n";
  for (let end = 0; end <= text.length; end++) {
    for (const block of splitter.split(text.slice(0, end)).blocks.slice(0, -1)) {
      assert.equal(block.split("\\[").length, block.split("\\]").length, JSON.stringify(block));
    }
  }
  assert.ok(splitter.split(text).blocks.length >= 3);
});

test("a line that is not whole yet closes nothing", () => {
  const splitter = new Splitter();
  for (const part of ["1. a\n\n2", "1. a\n\n2.", "1. a\n\n2. b\n"]) assert.equal(drawnInBlocks(splitter, part), drawn(part));
});
