/** What was typed and not sent yet, for each conversation of this tab. */

const KEY = "turnwire.drafts";
const MOST = 30;
const MOST_CHARS = 200_000;

type Kept = [name: string, text: string][];

/**
 * Keeps the newest drafts, at most 30 and together at most 200 000 characters; what is beyond is forgotten, oldest
 * first. A browser that keeps nothing loses drafts on reload, and nothing else.
 */
export class Drafts {
  private readonly storage: Pick<Storage, "getItem" | "setItem">;

  constructor(storage: Pick<Storage, "getItem" | "setItem">) {
    this.storage = storage;
  }

  get(name: string): string {
    return this.read().find(([one]) => one === name)?.[1] ?? "";
  }

  /** An empty `text` forgets the draft. */
  set(name: string, text: string): void {
    const kept = this.read();
    const others = kept.filter(([one]) => one !== name);
    if (text === "" && others.length === kept.length) return;
    const all: Kept = text === "" ? others : [[name, text], ...others];
    let chars = 0;
    const bounded = all.slice(0, MOST).filter(([, one]) => (chars += one.length) <= MOST_CHARS);
    try {
      this.storage.setItem(KEY, JSON.stringify(bounded));
    } catch {
      // The browser's own limit is reached; the text still stands in the field.
    }
  }

  private read(): Kept {
    try {
      const kept: unknown = JSON.parse(this.storage.getItem(KEY) ?? "[]");
      return Array.isArray(kept) ? kept.filter(isDraft) : [];
    } catch {
      return [];
    }
  }
}

function isDraft(one: unknown): one is [string, string] {
  return Array.isArray(one) && one.length === 2 && one.every((item) => typeof item === "string");
}
