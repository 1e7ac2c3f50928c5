// The transcript as data: finals that stay, one partial that changes, and the forms it is taken away in.

const CUE_SECONDS = 6;
const CUE_CHARACTERS = 84; // two lines of subtitles

/** What has been said. Times are seconds on the page's clock, which runs on over recordings. */
export class Transcript {
  #finals = [];
  partial = null;

  get finals() {
    return this.#finals;
  }

  get isEmpty() {
    return this.#finals.length === 0;
  }

  /** Replaces what is being said now. */
  setPartial(event) {
    this.partial = event.text ? { text: event.text, start: event.start, end: event.end } : null;
  }

  /** Appends a finished segment and returns it; null for one without words. */
  addFinal({ text, start, end, words = [], confidence = null }) {
    this.partial = null;
    if (!text.trim()) return null;
    const segment = { text: text.trim(), start, end, words, confidence };
    this.#finals.push(segment);
    return segment;
  }

  clear() {
    this.#finals = [];
    this.partial = null;
  }
}

/** The segment's text cut into tokens, each with its word's confidence and start where they are known. */
export function shadedTokens({ text, words, confidence }) {
  const tokens = text.split(/\s+/);
  // Punctuated text and bare words pair up only when they are equally many.
  if (words.length !== tokens.length) return tokens.map((token) => ({ text: token, confidence, start: null }));
  return tokens.map((token, n) => ({ text: token, confidence: words[n].confidence, start: words[n].start }));
}

/** high | medium | low, or null when the engine does not say. */
export function confidenceBand(confidence) {
  if (typeof confidence !== "number") return null;
  if (confidence >= 0.8) return "high";
  return confidence >= 0.5 ? "medium" : "low";
}

/** 0:03.2, or 1:02:03.4 from an hour on. */
export function clock(seconds) {
  const tenths = Math.max(0, Math.round(seconds * 10));
  const hours = Math.floor(tenths / 36000);
  const minutes = Math.floor(tenths / 600) % 60;
  const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export function toText(finals) {
  return finals.map((segment) => `${segment.text}\n`).join("");
}

export function toJson(finals) {
  const segments = finals.map(({ text, start, end, words, confidence }) => ({
    text,
    start: milli(start),
    end: milli(end),
    confidence,
    words: words.map((word) => ({
      word: word.word,
      start: milli(word.start),
      end: milli(word.end),
      confidence: word.confidence ?? null,
    })),
  }));
  return `${JSON.stringify({ text: finals.map((segment) => segment.text).join(" "), segments }, null, 2)}\n`;
}

export function toSrt(finals) {
  return finals
    .flatMap(cues)
    .map((cue, n) => `${n + 1}\n${srtTime(cue.start)} --> ${srtTime(cue.end)}\n${cue.text}\n`)
    .join("\n");
}

function cues(segment) {
  const { text, start, end, words } = segment;
  const tokens = text.split(/\s+/);
  if (words.length !== tokens.length) return [{ text, start, end }];
  const made = [];
  for (const [n, token] of tokens.entries()) {
    const cue = made.at(-1);
    if (cue && `${cue.text} ${token}`.length <= CUE_CHARACTERS && words[n].end - cue.start <= CUE_SECONDS) {
      cue.text += ` ${token}`;
      cue.end = words[n].end;
    } else made.push({ text: token, start: words[n].start, end: words[n].end });
  }
  return made;
}

function srtTime(seconds) {
  const total = Math.max(0, Math.round(seconds * 1000));
  const pad = (value, width) => String(value).padStart(width, "0");
  const [hours, minutes, rest] = [Math.floor(total / 3600000), Math.floor(total / 60000) % 60, total % 60000];
  return `${pad(hours, 2)}:${pad(minutes, 2)}:${pad(Math.floor(rest / 1000), 2)},${pad(rest % 1000, 3)}`;
}

function milli(seconds) {
  return Math.round(seconds * 1000) / 1000;
}
