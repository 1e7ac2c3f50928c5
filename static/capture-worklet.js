// Runs on the audio thread: microphone quanta in, 16 kHz PCM frames and levels out.

import { Framer } from "./pcm.js";
import { Resampler } from "./resampler.js";

const LEVEL_SAMPLES = 1024; // about 20 ms: often enough for a meter that feels alive

class CaptureProcessor extends AudioWorkletProcessor {
  #resampler = new Resampler(Math.round(sampleRate));
  #framer = new Framer();
  #ended = false;
  #peak = 0;
  #energy = 0;
  #measured = 0;

  constructor() {
    super();
    this.port.onmessage = () => this.#end();
  }

  process([input]) {
    if (this.#ended) return false;
    const samples = input[0];
    if (!samples) return true; // nothing is connected yet
    this.#measure(samples);
    this.#send(this.#framer.push(this.#resampler.process(samples)));
    return true;
  }

  #end() {
    if (this.#ended) return;
    this.#ended = true;
    this.#send(this.#framer.push(this.#resampler.flush()));
    this.#send(this.#framer.flush());
    this.port.postMessage({ type: "end" });
  }

  #send(frames) {
    for (const pcm of frames) this.port.postMessage({ type: "frame", pcm }, [pcm.buffer]);
  }

  #measure(samples) {
    for (const sample of samples) {
      this.#peak = Math.max(this.#peak, Math.abs(sample));
      this.#energy += sample * sample;
    }
    this.#measured += samples.length;
    if (this.#measured < LEVEL_SAMPLES) return;
    this.port.postMessage({ type: "level", peak: this.#peak, rms: Math.sqrt(this.#energy / this.#measured) });
    this.#peak = this.#energy = this.#measured = 0;
  }
}

registerProcessor("perch-capture", CaptureProcessor);
