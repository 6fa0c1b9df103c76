import { useEffect, useState, useSyncExternalStore } from "react";
import { Composer } from "./Composer.tsx";
import { Icon } from "./Icon.tsx";
import { Sidebar } from "./Sidebar.tsx";
import { useSettings } from "./settings.tsx";
import { Store } from "./store.ts";
import { Thread } from "./Thread.tsx";
import { TokenDialog } from "./TokenDialog.tsx";
import { activity } from "./convergence.ts";

const store = new Store();
const TROUBLE_MS = 800;

export function App() {
  useSyncExternalStore(store.subscribe, store.snapshot);
  const { words, toggleLanguage, toggleTheme } = useSettings();
  const [menu, setMenu] = useState(false);
  const { session } = store;
  const { view } = session;
  const doing = activity(view);
  const title = view.title || store.list.find((one) => one.id === session.name)?.title || "";

  useEffect(() => {
    document.title = title ? `${title} · Turnwire` : "Turnwire";
  }, [title]);

  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key !== "Escape" || event.defaultPrevented || event.isComposing) return;
      if (menu) setMenu(false);
      else if (doing.turn && !doing.stopping) session.stop(doing.turn);
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  });

  const send = (...message: Parameters<typeof session.send>) => {
    session.send(...message);
    store.named();
  };

  return (
    <div className={menu ? "page menu-open" : "page"} data-state={doing.busy ? "busy" : "idle"} data-phase={view.phase}>
      <Sidebar store={store} close={() => setMenu(false)} />
      {menu && <div className="shade" onClick={() => setMenu(false)} />}
      <div className="main">
        <header className="top">
          <button className="icon menu-button" aria-label={words.menu} onClick={() => setMenu(true)}>
            <Icon name="menu" />
          </button>
          <h1 className="title">{title}</h1>
          <Trouble key={String(store.network.troubled)} troubled={store.network.troubled} />
          <button className="icon text" aria-label={words.languageLabel} onClick={toggleLanguage}>
            {words.language}
          </button>
          <button className="icon" aria-label={words.theme} onClick={toggleTheme}>
            <Icon name="theme" />
          </button>
        </header>
        <Thread key={session.name} session={session} send={send} />
        <Composer
          key={`composer ${session.name}`}
          busy={doing.turn !== null}
          stopping={doing.stopping}
          send={send}
          stop={() => doing.turn && session.stop(doing.turn)}
        />
      </div>
      {store.token && <TokenDialog wrong={store.token === "wrong"} authorize={(token) => store.authorize(token)} />}
    </div>
  );
}

/** Says that the connection is lost, once that has lasted long enough to matter. */
function Trouble({ troubled }: { troubled: boolean }) {
  const { words } = useSettings();
  const [said, setSaid] = useState(false);
  useEffect(() => {
    if (!troubled) return;
    const timer = setTimeout(() => setSaid(true), TROUBLE_MS);
    return () => clearTimeout(timer);
  }, [troubled]);
  return (
    <div className="trouble" role="status">
      {troubled && said && (
        <span>
          <i className="dot" />
          {words.reconnecting}
        </span>
      )}
    </div>
  );
}
