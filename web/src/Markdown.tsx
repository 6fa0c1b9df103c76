import { memo, useEffect, useState } from "react";
import ReactMarkdown, { type Components, type Options } from "react-markdown";
import remarkGfm from "remark-gfm";
import { FileView, nameOf } from "./Files.tsx";

type Plugins = NonNullable<Options["rehypePlugins"]>;

let highlight: Promise<Plugins> | undefined;
let formulas: Promise<typeof import("./formulas.ts")> | undefined;

/** A plugin set that is fetched when a text first needs it; null until then. */
function useLazily<T>(needed: boolean, load: () => Promise<T>): T | null {
  const [loaded, setLoaded] = useState<T | null>(null);
  useEffect(() => {
    if (!needed) return;
    let left = false;
    load().then(
      (value) => !left && setLoaded(value as T),
      () => undefined,
    );
    return () => {
      left = true;
    };
  }, [needed, load]);
  return loaded;
}

const loadHighlight = () => (highlight ??= import("./highlight.ts").then((module) => module.rehype));
const loadFormulas = () => (formulas ??= import("./formulas.ts"));

const COMPONENTS: Components = {
  a: ({ href, children }) => (
    <a href={href || undefined} target="_blank" rel="noopener noreferrer">
      {children}
    </a>
  ),
  // A picture from elsewhere would tell that place who reads this; it is shown as a link.
  img: ({ src, alt }) => {
    if (typeof src === "string" && src.startsWith("/files/")) {
      return <FileView url={src} mediaType="image/png" name={alt || nameOf({ url: src })} />;
    }
    return (
      <a href={typeof src === "string" ? src : undefined} target="_blank" rel="noopener noreferrer">
        {alt || src}
      </a>
    );
  },
  table: ({ children }) => (
    <div className="table" tabIndex={0}>
      <table>{children}</table>
    </div>
  ),
};

export const Markdown = memo(function Markdown({ text, live }: { text: string; live: boolean }) {
  const code = useLazily(/(^|\n)\s*(```|~~~)/.test(text), loadHighlight);
  const math = useLazily(/\$\$|\$[^\s$][^$\n]*\$|\\\(|\\\[/.test(text), loadFormulas);
  return (
    <div className={live ? "markdown live" : "markdown"}>
      <ReactMarkdown
        remarkPlugins={math ? [remarkGfm, ...math.remark] : [remarkGfm]}
        rehypePlugins={[...(code ?? []), ...(math?.rehype ?? [])]}
        components={COMPONENTS}
      >
        {math ? math.spelled(text) : text}
      </ReactMarkdown>
    </div>
  );
});
