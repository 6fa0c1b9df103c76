import { createRoot } from "react-dom/client";
import { App } from "./App.tsx";
import { SettingsProvider } from "./settings.tsx";
import "./styles.css";

createRoot(document.getElementById("root")!).render(
  <SettingsProvider>
    <App />
  </SettingsProvider>,
);
