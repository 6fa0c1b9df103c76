import { useEffect, useRef, useState } from "react";
import { matching } from "./conversations.ts";
import { Icon } from "./Icon.tsx";
import { useWords } from "./settings.tsx";
import { usePicked, type Store } from "./store.ts";

/** A search reads the list page by page until it has read so many. */
const SEARCHED = 2000;

interface Props {
  store: Store;
  /** Whether it was opened over the page, which is too narrow for both. */
  shown: boolean;
  close(): void;
}

export function Sidebar({ store, shown, close }: Props) {
  const words = useWords();
  const list = usePicked(store, (one) => one.list);
  const listed = usePicked(store, (one) => one.listed);
  const open = usePicked(store, (one) => one.session.name);
  const [wanted, setWanted] = useState("");
  const closing = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (shown) closing.current?.focus();
  }, [shown]);
  const found = matching(list, wanted);
  const searching = wanted.trim() !== "" && !list.complete && list.entries.length < SEARCHED;
  useEffect(() => {
    if (searching) void store.readOlder();
  }, [searching, list, store]);
  return (
    <nav className="side" aria-label={words.conversations}>
      <div className="brand">
        <img src="/icon.svg" alt="" width="22" height="22" />
        <strong>Turnwire</strong>
        <button ref={closing} className="icon side-close" aria-label={words.closeMenu} onClick={close}>
          <Icon name="close" />
        </button>
      </div>
      <button
        className="new"
        onClick={() => {
          store.newChat();
          close();
        }}
      >
        <Icon name="plus" />
        {words.newChat}
      </button>
      <label className="search">
        <Icon name="search" />
        <input
          type="search"
          placeholder={words.search}
          aria-label={words.search}
          value={wanted}
          onChange={(event) => setWanted(event.target.value)}
        />
      </label>
      <div className="list">
        <ul>
          {found.map((one) => (
            <li key={one.id}>
              <a
                href={`#/c/${encodeURIComponent(one.id)}`}
                aria-current={one.id === open ? "page" : undefined}
                title={one.title ?? ""}
                onClick={close}
              >
                {one.title || words.untitled}
              </a>
            </li>
          ))}
        </ul>
        {listed && !list.complete && !searching && (
          <button className="older" onClick={() => void store.readOlder()}>
            {words.older}
          </button>
        )}
      </div>
      {listed && found.length === 0 && (
        <p className="none">{searching ? words.loading : wanted.trim() ? words.nothingFound : words.noConversations}</p>
      )}
    </nav>
  );
}
