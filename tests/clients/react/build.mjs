// Bundles the pages of tests/test_use_chat.py into the folder `out`, one set for each line of the SDK.

import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';

const here = dirname(fileURLToPath(import.meta.url));
const require = createRequire(import.meta.url);

/** The code that the documentation inside a package gives for a file: `PAGE#FILE`. */
async function documented(name, line) {
  const [page, file] = name.split('#');
  // The packages of line 5 hold no documentation; its pages are those of line 6.
  const home = dirname(require.resolve(`ai${Math.max(line, 6)}/package.json`));
  const text = await readFile(join(home, 'docs/04-ai-sdk-ui', page), 'utf8');
  for (const [, said, code] of text.matchAll(/^```tsx filename=["']([^"']+)["'].*\n([^]*?)^```$/gm)) {
    if (said === file) return code;
  }
  throw new Error(`${page} shows no ${file}`);
}

/** What a page imports by the names of the documentation is that line's; what a package imports is its own. */
function lineOf(line) {
  return {
    name: 'line',
    setup({ onLoad, onResolve, resolve }) {
      onResolve({ filter: /^(ai|@ai-sdk\/react)$/ }, ({ path, kind, importer, namespace }) => {
        if (namespace !== 'documented' && dirname(importer) !== here) return undefined;
        return resolve(path === 'ai' ? `ai${line}` : `react${line}`, { kind, resolveDir: here });
      });
      onResolve({ filter: /^documented:/ }, ({ path }) => ({
        path: path.slice('documented:'.length),
        namespace: 'documented',
      }));
      onLoad({ filter: /.*/, namespace: 'documented' }, async ({ path }) => ({
        contents: await documented(path, line),
        loader: 'tsx',
        resolveDir: here,
      }));
    },
  };
}

await Promise.all(
  [5, 6, 7].map(line =>
    build({
      entryPoints: ['parts', 'stock', 'documented'].map(name => join(here, `${name}.jsx`)),
      outdir: join(here, 'out', String(line)),
      bundle: true,
      minify: true,
      format: 'esm',
      jsx: 'automatic',
      logLevel: 'error',
      plugins: [lineOf(line)],
      // React's own warnings, that two messages have one id for example, are complaints too.
      define: { 'process.env.NODE_ENV': '"development"' },
    }),
  ),
);
