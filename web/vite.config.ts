import { readFileSync } from "node:fs";
import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";

/** KaTeX names each font in three formats; every browser that runs this page takes the first. */
function oneFontFormat(): Plugin {
  return {
    name: "one-font-format",
    enforce: "pre",
    transform(code, id) {
      if (!/katex.*\.css/.test(id)) return null;
      return code.replace(/,url\([^)]*\.(?:woff|ttf)\) format\("[^"]*"\)/g, "");
    },
  };
}

/** Puts the script that chooses the colours before everything else: it may not be inline, and must not come late. */
function themeFirst(): Plugin {
  const source = "src/theme.js";
  return {
    name: "theme-first",
    buildStart() {
      if (this.environment.mode !== "build") return;
      this.emitFile({ type: "asset", name: "theme.js", source: readFileSync(source) });
    },
    transformIndexHtml: {
      order: "post",
      handler(_, { bundle }) {
        const built = Object.values(bundle ?? {}).find((file) => file.type === "asset" && file.names.includes("theme.js"));
        return [{ tag: "script", attrs: { src: `./${built?.fileName ?? source}` }, injectTo: "head-prepend" }];
      },
    },
  };
}

export default defineConfig({
  // The page may be mounted below a path of somebody's own.
  base: "./",
  plugins: [react(), oneFontFormat(), themeFirst()],
  build: {
    outDir: "../src/turnwire/channels/web/static",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    target: "es2022",
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1500,
  },
  server: { proxy: { "/api": "http://127.0.0.1:8787", "/files": "http://127.0.0.1:8787" } },
});
