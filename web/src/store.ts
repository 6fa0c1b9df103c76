/** What the whole page knows: the list, the open conversation, the connection, the token. */
import { useSyncExternalStore } from "react";
import { listConversations, Refused, setToken, hasToken } from "./api.ts";
import { extended, NONE, refreshed, type Conversations } from "./conversations.ts";
import { newId } from "./ids.ts";
import { Network } from "./network.ts";
import { Session } from "./session.ts";

const LIST_DELAY_MS = 150;
const TYPING_MS = 250;
/** The longest search that the server takes. */
const SEARCH_CHARS = 200;

export class Store {
  readonly network = new Network();
  session: Session;
  list = NONE;
  listed = false;
  /** What is searched for, and what the server found; null while it looks. */
  wanted = "";
  found: Conversations | null = null;
  private extending = false;
  /** Null, or why a token is asked for. */
  token: "needed" | "wrong" | null = null;
  private readonly listeners = new Set<() => void>();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private typing: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    this.session = this.opened();
    addEventListener("hashchange", () => this.reopen());
    this.network.subscribe(() => this.changed());
    document.addEventListener("visibilitychange", () => this.refreshList());
    addEventListener("online", () => this.refreshList());
    this.refreshList();
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  open(name: string): void {
    location.hash = `#/c/${encodeURIComponent(name)}`;
  }

  newChat(): void {
    if (location.hash === "") this.reopen();
    else location.hash = "";
  }

  /** A new conversation gets its address with its first message. */
  named(): void {
    if (namedConversation() === null) {
      history.replaceState(null, "", `#/c/${encodeURIComponent(this.session.name)}`);
    }
  }

  authorize(token: string): void {
    setToken(token);
    this.token = null;
    this.reopen();
    this.refreshList();
  }

  refreshList = (): void => {
    clearTimeout(this.timer);
    if (this.token === null) this.timer = setTimeout(() => void this.readList(), LIST_DELAY_MS);
  };

  private async readList(): Promise<void> {
    try {
      this.list = refreshed(this.list, await listConversations(""));
      this.listed = true;
      this.changed();
      await this.readFound();
    } catch (error) {
      if (error instanceof Refused && error.status === 401) this.unauthorized();
      // Otherwise the next change, or the network's return, reads it again.
    }
  }

  /** Searches all conversations, once nobody types any more. */
  search(text: string): void {
    clearTimeout(this.typing);
    const wanted = text.trim().slice(0, SEARCH_CHARS);
    if (wanted === this.wanted) return;
    this.wanted = wanted;
    this.found = null;
    this.changed();
    if (wanted) this.typing = setTimeout(() => void this.readFound().catch(this.refreshList), TYPING_MS);
  }

  private async readFound(): Promise<void> {
    const wanted = this.wanted;
    if (!wanted) return;
    const page = await listConversations(wanted);
    if (wanted !== this.wanted) return;
    this.found = refreshed(this.found ?? NONE, page);
    this.changed();
  }

  /** Reads the page of conversations that follows those shown. */
  readOlder = async (): Promise<void> => {
    const { wanted } = this;
    const shown = wanted ? this.found : this.list;
    const before = shown?.entries.at(-1)?.updatedAt;
    if (this.extending || !shown || shown.complete || before === undefined) return;
    this.extending = true;
    try {
      const page = await listConversations(wanted, before);
      if (!wanted) this.list = extended(this.list, page);
      else if (wanted === this.wanted && this.found) this.found = extended(this.found, page);
    } catch {
      // The list stays as long as it is; it can be asked for again.
    } finally {
      this.extending = false;
    }
    this.changed();
  };

  private unauthorized(): void {
    this.token = hasToken() ? "wrong" : "needed";
    this.changed();
  }

  private reopen(): void {
    this.session.close();
    this.session = this.opened();
    this.changed();
  }

  private opened(): Session {
    const name = namedConversation();
    return new Session(name ?? newId("chat"), name === null, this.network, {
      changed: () => this.changed(),
      unauthorized: () => this.unauthorized(),
      listChanged: this.refreshList,
    });
  }

  private changed(): void {
    for (const listener of this.listeners) listener();
  }
}

/** What `pick` takes from the store, drawn again only when that is another value. */
export function usePicked<T>(store: Store, pick: (store: Store) => T): T {
  return useSyncExternalStore(store.subscribe, () => pick(store));
}

function namedConversation(): string | null {
  const match = /^#\/c\/(.+)$/.exec(location.hash);
  if (!match) return null;
  try {
    return decodeURIComponent(match[1]!);
  } catch {
    return null;
  }
}
