// An audio file in place of the microphone: decoded by the browser, given out at a steady pace.

import { FRAME_SAMPLES, RATE, toPcm16 } from "./pcm.js";

const TIMES_REAL_TIME = 4; // quick for the user, and a pace recognisers keep up with
const FRAME_MS = (FRAME_SAMPLES / RATE) * 1000;

/** Has the same shape as `Capture`; `on.ended()` says that the file has. */
export class AudioFile {
  #samples;
  #on;
  #position = 0;
  #timer;

  static async open({ file, on }) {
    const context = new OfflineAudioContext(1, 1, RATE); // decodes to its own rate
    const decoded = await context.decodeAudioData(await file.arrayBuffer());
    return new AudioFile(mono(decoded), on);
  }

  constructor(samples, on) {
    this.#samples = samples;
    this.#on = on;
    this.#timer = setInterval(() => this.#next(), FRAME_MS / TIMES_REAL_TIME);
  }

  async close() {
    clearInterval(this.#timer);
  }

  #next() {
    const piece = this.#samples.subarray(this.#position, this.#position + FRAME_SAMPLES);
    if (piece.length === 0) {
      clearInterval(this.#timer);
      this.#on.ended();
      return;
    }
    this.#position += piece.length;
    this.#on.frame(toPcm16(piece));
    this.#on.level(levelOf(piece));
  }
}

function mono(decoded) {
  const mixed = new Float32Array(decoded.length);
  for (let channel = 0; channel < decoded.numberOfChannels; channel += 1) {
    const samples = decoded.getChannelData(channel);
    for (let n = 0; n < mixed.length; n += 1) mixed[n] += samples[n] / decoded.numberOfChannels;
  }
  return mixed;
}

function levelOf(samples) {
  let [peak, energy] = [0, 0];
  for (const sample of samples) {
    peak = Math.max(peak, Math.abs(sample));
    energy += sample * sample;
  }
  return { peak, rms: Math.sqrt(energy / samples.length) };
}
