// How long after a sound was captured its words were on the screen.

import { RATE } from "./pcm.js";

const RECENT = 50;

/** Matches the ends of results with the moments their audio was captured. Times are milliseconds. */
export class LatencyMeter {
  #captured = 0;
  #at = 0;
  #recent = [];
  last = null;

  /** `samples` have been captured in all, the newest of them at `now`. */
  capturedUpTo(samples, now) {
    this.#captured = samples;
    this.#at = now;
  }

  /** A result covering the audio up to `endSeconds` is shown at `now`. */
  shown(endSeconds, now) {
    const capturedAt = this.#at - ((this.#captured - endSeconds * RATE) / RATE) * 1000;
    this.last = Math.max(0, now - capturedAt);
    this.#recent.push(this.last);
    if (this.#recent.length > RECENT) this.#recent.shift();
  }

  /** The median of the recent results; null before the first. */
  get median() {
    if (this.#recent.length === 0) return null;
    const sorted = [...this.#recent].sort((a, b) => a - b);
    const middle = Math.floor(sorted.length / 2);
    return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  }
}
