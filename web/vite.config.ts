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

export default defineConfig({
  plugins: [react(), oneFontFormat()],
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
