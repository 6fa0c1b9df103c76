import { Fragment, memo, useEffect, useMemo, useState } from "react";
import ReactMarkdown, { type Components, type Options } from "react-markdown";
import remarkGfm from "remark-gfm";
import { Splitter } from "./blocks.ts";
import { FileView } from "./Files.tsx";
import { nameOf } from "./names.ts";
import { useWords } from "./settings.tsx";

type Plugins = NonNullable<Options["rehypePlugins"]>;
type Formulas = typeof import("./formulas.ts");

/** A longer block is coloured only once it is whole, so that colouring never costs more than reading. */
const COLOURED_CHARS = 6000;

let highlight: Promise<Plugins> | undefined;
let formulas: Promise<Formulas> | undefined;

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
  input: ({ checked }) => <Task done={checked === true} />,
  pre: ({ children }) => <pre tabIndex={0}>{children}</pre>,
  table: ({ children }) => (
    <div className="table" tabIndex={0}>
      <table>{children}</table>
    </div>
  ),
};

/** A box in a list of tasks. */
function Task({ done }: { done: boolean }) {
  const words = useWords();
  return <input type="checkbox" disabled checked={done} aria-label={done ? words.taskDone : words.taskOpen} />;
}

/** An answer that is watched while it grows is drawn block by block and stays so; one that stands is drawn whole. */
export const Markdown = memo(function Markdown({ text, live }: { text: string; live: boolean }) {
  const code = useLazily(/(^|\n)[\s>]*(```|~~~)/.test(text), loadHighlight);
  const math = useLazily(/\$\$|\$[^\s$][^$\n]*\$|\\\(|\\\[/.test(text), loadFormulas);
  const [grows] = useState(live);
  const splitter = useMemo(() => (grows ? new Splitter(math?.remark, math !== null) : null), [grows, math]);
  const { blocks, definitions } = splitter?.split(text) ?? { blocks: [text], definitions: "" };
  return (
    <div className={live ? "markdown live" : "markdown"}>
      {blocks.map((block, index) => {
        const open = live && index === blocks.length - 1;
        return (
          <Fragment key={index}>
            {index > 0 && "\n"}
            <Block
              text={definitions ? `${definitions}\n\n${block}` : block}
              code={open && block.length > COLOURED_CHARS ? null : code}
              math={math}
            />
          </Fragment>
        );
      })}
    </div>
  );
});

interface BlockProps {
  text: string;
  code: Plugins | null;
  math: Formulas | null;
}

const Block = memo(function Block({ text, code, math }: BlockProps) {
  return (
    <ReactMarkdown
      remarkPlugins={math ? [remarkGfm, ...math.remark] : [remarkGfm]}
      rehypePlugins={[...(code ?? []), ...(math?.rehype ?? [])]}
      components={COMPONENTS}
    >
      {math ? math.spelled(text) : text}
    </ReactMarkdown>
  );
});
