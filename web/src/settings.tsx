import { createContext, useContext, useEffect, useState, type ReactNode } from "react";
import { WORDS, type Language, type Words } from "./words.ts";

interface Settings {
  words: Words;
  language: Language;
  toggleLanguage(): void;
  toggleTheme(): void;
}

const Context = createContext<Settings | null>(null);

export function useSettings(): Settings {
  return useContext(Context)!;
}

export function useWords(): Words {
  return useSettings().words;
}

type Theme = "light" | "dark";

function systemTheme(): Theme {
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/** Language and colours: the browser's, until somebody chooses. */
export function SettingsProvider({ children }: { children: ReactNode }) {
  const [language, setLanguage] = useState<Language>(
    () =>
      (localStorage.getItem("turnwire.language") as Language | null) ??
      (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en"),
  );
  const [theme, setTheme] = useState(() => localStorage.getItem("turnwire.theme") as Theme | null);
  useEffect(() => {
    document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  }, [language]);
  useEffect(() => {
    if (theme) document.documentElement.dataset.theme = theme;
  }, [theme]);
  const settings: Settings = {
    words: WORDS[language],
    language,
    toggleLanguage: () => {
      const next = language === "zh" ? "en" : "zh";
      localStorage.setItem("turnwire.language", next);
      setLanguage(next);
    },
    toggleTheme: () => {
      const next = (theme ?? systemTheme()) === "dark" ? "light" : "dark";
      localStorage.setItem("turnwire.theme", next);
      setTheme(next);
    },
  };
  return <Context value={settings}>{children}</Context>;
}
