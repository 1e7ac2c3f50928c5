// Light or dark: the system's choice until the user makes one.

import { recallChoice, rememberChoice } from "./memory.js";

/** Makes `button` switch the theme. */
export function wireTheme(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (recallChoice("theme") || (system.matches ? "dark" : "light")) === "dark";
  const show = () => {
    document.documentElement.dataset.theme = isDark() ? "dark" : "light";
    button.setAttribute("aria-pressed", String(isDark()));
  };
  button.addEventListener("click", () => {
    rememberChoice("theme", isDark() ? "light" : "dark");
    show();
  });
  system.addEventListener("change", show);
  show();
}
