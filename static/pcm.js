// Float samples to 16-bit PCM, and PCM to frames of one size.

export const RATE = 16000;
export const FRAME_SAMPLES = 1600; // 100 ms: what one WebSocket message carries

/** Samples in -1..1 as 16-bit integers; louder ones are clipped. */
export function toPcm16(samples) {
  const pcm = new Int16Array(samples.length);
  for (let n = 0; n < samples.length; n += 1) {
    pcm[n] = Math.round(Math.max(-1, Math.min(1, samples[n])) * 32767);
  }
  return pcm;
}

/** Cuts a stream of float samples into PCM frames of equal length, the last one excepted. */
export class Framer {
  #frame = new Float32Array(FRAME_SAMPLES);
  #filled = 0;

  /** The frames that `samples` completes. */
  push(samples) {
    const frames = [];
    for (let taken = 0; taken < samples.length; ) {
      const piece = samples.subarray(taken, taken + FRAME_SAMPLES - this.#filled);
      this.#frame.set(piece, this.#filled);
      this.#filled += piece.length;
      taken += piece.length;
      if (this.#filled === FRAME_SAMPLES) frames.push(this.#take());
    }
    return frames;
  }

  /** What is left of an unfinished frame: no frame or one. */
  flush() {
    return this.#filled ? [this.#take()] : [];
  }

  #take() {
    const pcm = toPcm16(this.#frame.subarray(0, this.#filled));
    this.#filled = 0;
    return pcm;
  }
}
