/** Splits Markdown that grows at its end, so that only its last block has to be parsed again. */
import remarkGfm from "remark-gfm";
import remarkParse from "remark-parse";
import { unified, type PluggableList } from "unified";

interface Node {
  type: string;
  position?: { start: { offset?: number }; end: { offset?: number } };
  children?: Node[];
}

export interface Split {
  /** The text in pieces that can be drawn each for itself; all but the last stay what they are while text is added. */
  blocks: string[];
  /** Link definitions of the whole text, which any block may refer to. */
  definitions: string;
}

/**
 * Drawn one after the other, each with `definitions` before it, the blocks look like the whole text.
 *
 * The parser itself says where a block ends: a top-level node is closed once another one begins on a later, complete
 * line, at its margin and after a blank one. Text with footnotes is never split, for those are numbered and listed across all of it.
 */
export class Splitter {
  private readonly parse: (text: string) => Node;
  private readonly takesBracketFormulas: boolean;
  private text = "";
  private closed: string[] = [];
  private start = 0;
  private definitions: string[] = [];
  private last: Split = { blocks: [], definitions: "" };

  /** `plugins` are what the text is drawn with besides GFM; with formulas, `\[ ... \]` is never cut. */
  constructor(plugins: PluggableList = [], takesBracketFormulas = false) {
    const parser = unified().use(remarkParse).use(remarkGfm).use(plugins).freeze();
    this.parse = (text) => parser.parse(text);
    this.takesBracketFormulas = takesBracketFormulas;
  }

  split(text: string): Split {
    if (text === this.text) return this.last;
    if (!text.startsWith(this.text.slice(0, this.start))) this.restart();
    this.text = text;
    const rest = text.slice(this.start);
    const tree = this.parse(rest);
    const found = definitionsIn(tree, rest);
    if (found === null) return (this.last = { blocks: [text], definitions: "" });
    const cut = this.cut(tree, rest);
    if (cut > 0) {
      this.closed = [...this.closed, rest.slice(0, endBefore(tree, cut))];
      this.definitions.push(...found.filter(({ at }) => at < cut).map(({ source }) => source));
      this.start += cut;
    }
    const open = found.filter(({ at }) => at >= cut).map(({ source }) => source);
    const drawn = tree.children?.some((node) => isDrawn(node) && (node.position?.start.offset ?? 0) >= cut);
    const blocks = drawn ? [...this.closed, rest.slice(cut)] : this.closed;
    return (this.last = { blocks, definitions: [...this.definitions, ...open].join("\n") });
  }

  private restart(): void {
    this.closed = [];
    this.start = 0;
    this.definitions = [];
  }

  /** Where the last top-level node begins, unless the line that begins it may still turn into something else. */
  private cut(tree: Node, text: string): number {
    const lastLine = text.lastIndexOf("\n") + 1;
    const starts = (tree.children ?? []).map((node) => lineStart(text, node.position?.start.offset ?? 0));
    const at = starts.findLastIndex(
      (start, index) => start < lastLine && standsAlone(text, start) && !isIndentedCode(tree.children![index - 1], text),
    );
    if (at <= 0 || !tree.children!.slice(0, at).some(isDrawn)) return 0;
    const cut = starts[at]!;
    return this.takesBracketFormulas && !isBalanced(tree.children!.slice(0, at), text) ? 0 : cut;
  }
}

function isDrawn(node: Node): boolean {
  return node.type !== "definition";
}

/** Whether the line at `start` is not indented and follows a blank one: others may mean what they mean by what was before. */
function standsAlone(text: string, start: number): boolean {
  return /\S/.test(text[start] ?? " ") && text.slice(lineStart(text, start - 1), start).trim() === "";
}

/** The parser takes what follows such code for an interruption, blank lines or not. */
function isIndentedCode(node: Node | undefined, text: string): boolean {
  return node?.type === "code" && !/^[`~]/.test(text.slice(node.position?.start.offset));
}

/** Where the last node before `cut` ends. What follows it is no part of any, and would look like one at an end. */
function endBefore(tree: Node, cut: number): number {
  const closed = tree.children!.filter(({ position }) => (position?.start.offset ?? 0) < cut);
  return closed.at(-1)?.position?.end.offset ?? cut;
}

function lineStart(text: string, offset: number): number {
  return offset <= 0 ? 0 : text.lastIndexOf("\n", offset - 1) + 1;
}

/** Whether as many `\[` are closed as are opened outside of code blocks. */
function isBalanced(nodes: Node[], text: string): boolean {
  let depth = 0;
  for (const node of nodes) {
    if (node.type === "code") continue;
    const source = text.slice(node.position?.start.offset, node.position?.end.offset);
    for (const [sign] of source.matchAll(/\\[[\]]/g)) depth += sign === "\\[" ? 1 : -1;
  }
  return depth === 0;
}

/** The link definitions at any depth; null when there is a footnote. */
function definitionsIn(node: Node, text: string): { at: number; source: string }[] | null {
  const found: { at: number; source: string }[] = [];
  for (const child of node.children ?? []) {
    if (child.type === "footnoteDefinition") return null;
    const at = child.position?.start.offset ?? 0;
    if (child.type === "definition") {
      found.push({ at, source: text.slice(at, child.position?.end.offset) });
    } else if (child.children) {
      const inner = definitionsIn(child, text);
      if (inner === null) return null;
      found.push(...inner);
    }
  }
  return found;
}
