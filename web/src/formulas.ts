import "katex/dist/katex.min.css";
import type { Options } from "react-markdown";
import rehypeKatex from "rehype-katex";
import remarkMath from "remark-math";

type Plugins = NonNullable<Options["rehypePlugins"]>;

export const remark: Plugins = [remarkMath];
export const rehype: Plugins = [[rehypeKatex, { throwOnError: false, strict: false, trust: false }]];

const CODE = /(^[ \t]*(?:```|~~~)[\s\S]*?(?:^[ \t]*(?:```|~~~)[ \t]*$|$(?![\s\S]))|`[^`\n]*`)/m;

/** The other ways in which models write formulas, as the parser knows them; code is left alone. */
export function spelled(text: string): string {
  return text
    .split(CODE)
    .map((piece, index) =>
      index % 2 === 1
        ? piece
        : piece
            .replace(/^[ \t]*\$\$(.+?)\$\$[ \t]*$/gm, (_, formula: string) => `$$\n${formula}\n$$`)
            .replace(/\\\[([\s\S]+?)\\\]/g, (_, formula: string) => `\n$$\n${formula.trim()}\n$$\n`)
            .replace(/\\\(([^\n]+?)\\\)/g, (_, formula: string) => `$${formula}$`),
    )
    .join("");
}
