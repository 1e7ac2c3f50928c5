// Choices that outlive the page (device, language, theme) and the key, which lives as long as its tab.
// A browser may refuse storage altogether; then choices last until the page is left.

function kept(storage, name) {
  try {
    return window[storage].getItem(`perch.${name}`) ?? "";
  } catch {
    return "";
  }
}

function keep(storage, name, value) {
  try {
    window[storage].setItem(`perch.${name}`, value);
  } catch {
    return; // full or forbidden: nothing the user could do about it
  }
}

export const recallChoice = (name) => kept("localStorage", name);
export const rememberChoice = (name, value) => keep("localStorage", name, value);
export const recallKey = () => kept("sessionStorage", "key");
export const rememberKey = (key) => keep("sessionStorage", "key", key);
