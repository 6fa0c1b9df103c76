import { useState } from "react";
import { Icon } from "./Icon.tsx";
import { useWords } from "./settings.tsx";
import type { Store } from "./store.ts";

export function Sidebar({ store, close }: { store: Store; close(): void }) {
  const words = useWords();
  const [wanted, setWanted] = useState("");
  const needle = wanted.trim().toLowerCase();
  const found = store.list.filter((one) => (one.title ?? "").toLowerCase().includes(needle));
  return (
    <nav className="side" aria-label={words.conversations}>
      <div className="brand">
        <img src="/icon.svg" alt="" width="22" height="22" />
        <strong>Turnwire</strong>
        <button className="icon side-close" aria-label={words.closeMenu} onClick={close}>
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
      <ul className="list">
        {found.map((one) => (
          <li key={one.id}>
            <a
              href={`#/c/${encodeURIComponent(one.id)}`}
              aria-current={one.id === store.session.name ? "page" : undefined}
              title={one.title ?? ""}
              onClick={close}
            >
              {one.title || words.untitled}
            </a>
          </li>
        ))}
      </ul>
      {store.listed && found.length === 0 && (
        <p className="none">{needle ? words.nothingFound : words.noConversations}</p>
      )}
    </nav>
  );
}
