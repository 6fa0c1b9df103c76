import { ComposerPrimitive } from "@assistant-ui/react";
import { useEffect, useRef, useState } from "react";
import { Composer } from "./Composer.tsx";
import { activity } from "./convergence.ts";
import { Icon } from "./Icon.tsx";
import { Runtime } from "./Runtime.tsx";
import { Sidebar } from "./Sidebar.tsx";
import { useSettings } from "./settings.tsx";
import { Store, usePicked } from "./store.ts";
import { Thread } from "./Thread.tsx";
import { TokenDialog } from "./TokenDialog.tsx";

const store = new Store();
const TROUBLE_MS = 800;

export function App() {
  const { words, toggleLanguage, toggleTheme } = useSettings();
  const [menu, setMenu] = useState(false);
  const menuButton = useRef<HTMLButtonElement>(null);
  const session = usePicked(store, (one) => one.session);
  const phase = usePicked(store, (one) => one.session.view.phase);
  const busy = usePicked(store, (one) => activity(one.session.view).busy);
  const troubled = usePicked(store, (one) => one.network.troubled);
  const token = usePicked(store, (one) => one.token);
  const title = usePicked(store, titleOf);

  useEffect(() => {
    document.title = title ? `${title} · Turnwire` : "Turnwire";
  }, [title]);

  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key !== "Escape" || event.defaultPrevented || event.isComposing) return;
      if (menu) {
        setMenu(false);
        menuButton.current?.focus();
      } else {
        store.session.stopRunning();
      }
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [menu]);

  return (
    <div className={menu ? "page menu-open" : "page"} data-state={busy ? "busy" : "idle"} data-phase={phase}>
      <Sidebar store={store} shown={menu} close={() => setMenu(false)} />
      {menu && <div className="shade" onClick={() => setMenu(false)} />}
      <main className="main">
        <header className="top">
          <button
            ref={menuButton}
            className="icon menu-button"
            aria-label={words.menu}
            aria-expanded={menu}
            onClick={() => setMenu(true)}
          >
            <Icon name="menu" />
          </button>
          <h1 className="title">{title || (phase === "new" ? words.newChat : words.untitled)}</h1>
          <Trouble key={String(troubled)} troubled={troubled} />
          <button className="icon" aria-label={words.languageLabel} title={words.languageLabel} onClick={toggleLanguage}>
            <Icon name="language" />
          </button>
          <button className="icon" aria-label={words.theme} title={words.theme} onClick={toggleTheme}>
            <Icon name="theme" />
          </button>
        </header>
        <Runtime key={session.name} store={store} session={session}>
          <ComposerPrimitive.AttachmentDropzone className="room">
            <Thread store={store} session={session} />
            <Composer store={store} session={session} />
          </ComposerPrimitive.AttachmentDropzone>
        </Runtime>
      </main>
      {token && <TokenDialog wrong={token === "wrong"} authorize={(given) => store.authorize(given)} />}
    </div>
  );
}

function titleOf({ session, list }: Store): string {
  return session.view.title || list.entries.find(({ id }) => id === session.name)?.title || "";
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
