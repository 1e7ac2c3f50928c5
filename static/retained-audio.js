// The last minute of a recording, by position, so that a dropped connection costs no words.

import { RATE } from "./pcm.js";

export const RETAINED_SECONDS = 60;

/** A bounded window over a growing recording. Positions are samples from the recording's start. */
export class RetainedAudio {
  #frames = [];
  #capacity;
  base = 0; // position of the oldest sample still held
  end = 0; // position after the newest one

  constructor(seconds = RETAINED_SECONDS) {
    this.#capacity = seconds * RATE;
  }

  append(pcm) {
    this.#frames.push(pcm);
    this.end += pcm.length;
    while (this.end - this.base > this.#capacity) this.base += this.#frames.shift().length;
  }

  /** From `position` to the end of the frame that holds it. `position` must lie in base..end-1. */
  read(position) {
    let start = this.base;
    for (const frame of this.#frames) {
      if (position < start + frame.length) return frame.subarray(position - start);
      start += frame.length;
    }
    throw new RangeError(`position ${position} is not in ${this.base}..${this.end}`);
  }
}
