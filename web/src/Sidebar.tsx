import { useEffect, useRef, useState } from "react";
import { Icon } from "./Icon.tsx";
import { useWords } from "./settings.tsx";
import { usePicked, type Store } from "./store.ts";

interface Props {
  store: Store;
  /** Whether it was opened over the page, which is too narrow for both. */
  shown: boolean;
  close(): void;
}

export function Sidebar({ store, shown, close }: Props) {
  const words = useWords();
  const list = usePicked(store, (one) => (one.wanted ? one.found : one.list));
  const listed = usePicked(store, (one) => one.listed);
  const open = usePicked(store, (one) => one.session.name);
  const [wanted, setWanted] = useState("");
  const closing = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (shown) closing.current?.focus();
  }, [shown]);
  return (
    <nav className="side" aria-label={words.conversations}>
      <div className="brand">
        <Mark />
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
          onChange={(event) => {
            setWanted(event.target.value);
            store.search(event.target.value);
          }}
        />
      </label>
      <div className="list">
        <ul>
          {list?.entries.map((one) => (
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
        {listed && list?.complete === false && (
          <button className="older" onClick={() => void store.readOlder()}>
            {words.older}
          </button>
        )}
      </div>
      {listed && !list?.entries.length && (
        <p className="none">{!list ? words.loading : wanted.trim() ? words.nothingFound : words.noConversations}</p>
      )}
    </nav>
  );
}

/** The page's icon, drawn here: the browser fetches the file only for itself. */
function Mark() {
  return (
    <svg viewBox="0 0 32 32" width="22" height="22" aria-hidden="true">
      <rect width="32" height="32" rx="8" fill="#0f766e" />
      <path
        d="M8 11h10a4 4 0 0 1 0 8h-4a3 3 0 0 0 0 6h10"
        fill="none"
        stroke="#fff"
        strokeWidth="3"
        strokeLinecap="round"
      />
    </svg>
  );
}
