import { useEffect, useRef, useState } from "react";
import { useWords } from "./settings.tsx";

export function TokenDialog({ wrong, authorize }: { wrong: boolean; authorize(token: string): void }) {
  const words = useWords();
  const dialog = useRef<HTMLDialogElement>(null);
  const [token, setToken] = useState("");
  useEffect(() => dialog.current?.showModal(), []);
  const go = () => token.trim() && authorize(token.trim());
  return (
    <dialog ref={dialog} className="token" aria-labelledby="token-title" onCancel={(event) => event.preventDefault()}>
      <h2 id="token-title">{words.tokenTitle}</h2>
      <p>{words.tokenText}</p>
      <input
        type="password"
        autoComplete="off"
        aria-label={words.tokenTitle}
        value={token}
        onChange={(event) => setToken(event.target.value)}
        onKeyDown={(event) => event.key === "Enter" && go()}
      />
      {wrong && <p className="bad" role="alert">{words.tokenWrong}</p>}
      <button className="primary" onClick={go}>
        {words.tokenSend}
      </button>
    </dialog>
  );
}
