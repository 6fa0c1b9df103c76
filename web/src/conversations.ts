/** The list of conversations: the newest page, kept up to date, and as many older pages as were asked for. */
import type { Listed } from "./api.ts";

/** How many one page has; a shorter one is the last. */
export const PAGE = 100;

export interface Conversations {
  entries: readonly Listed[];
  /** Whether nothing older is left at the server. */
  complete: boolean;
}

export const NONE: Conversations = { entries: [], complete: false };

/** `before` with its newest page read anew. What moved up stands only where it stands now. */
export function refreshed(before: Conversations, newest: readonly Listed[]): Conversations {
  const oldest = newest.at(-1)?.updatedAt;
  if (newest.length < PAGE || oldest === undefined) return { entries: newest, complete: true };
  const ids = new Set(newest.map(({ id }) => id));
  const older = before.entries.filter(({ id, updatedAt }) => !ids.has(id) && updatedAt <= oldest);
  return { entries: [...newest, ...older], complete: before.complete };
}

/** `before` with the page that follows it. */
export function extended(before: Conversations, page: readonly Listed[]): Conversations {
  const ids = new Set(before.entries.map(({ id }) => id));
  return { entries: [...before.entries, ...page.filter(({ id }) => !ids.has(id))], complete: page.length < PAGE };
}

