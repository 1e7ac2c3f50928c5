// One press of Record to its last word: a source of audio, the stream that carries it, the time it took.

import { adviceFor } from "./advice.js";
import { diagnose, openSocket } from "./gateway.js";
import { LatencyMeter } from "./latency.js";
import { RATE } from "./pcm.js";
import { TranscriptionStream } from "./stream.js";

const TIMERS = {
  now: () => performance.now(),
  set: (run, milliseconds) => setTimeout(run, milliseconds),
  clear: (id) => clearTimeout(id),
};

const CONNECTION = {
  connecting: "Connecting…",
  live: "Live",
  retrying: "Reconnecting…",
  blocked: "Waiting for a key",
  closed: "Not connected",
};

/** `offset` is the page's clock at the session's first sample, in seconds. */
export class Session {
  captured = 0;
  #source = null;
  #stream;
  #view;
  #transcript;
  #offset;
  #isLive; // recorded as it happens, so that latency means something
  #latency = { partial: new LatencyMeter(), final: new LatencyMeter() };
  #lostSeconds = 0;
  #lostByEngine = [];
  #onDone;
  #onLevel;
  #onSourceEnd;
  #onConnection;

  constructor({ view, transcript, offset, language, key, isLive, onLevel, onSourceEnd, onConnection, onDone }) {
    this.#view = view;
    this.#transcript = transcript;
    this.#offset = offset;
    this.#isLive = isLive;
    this.#onLevel = onLevel;
    this.#onSourceEnd = onSourceEnd;
    this.#onConnection = onConnection;
    this.#onDone = onDone;
    this.#stream = new TranscriptionStream({
      config: { sample_rate: RATE, encoding: "pcm16", language, words: true, partials: true },
      key,
      connect: openSocket,
      diagnose,
      timers: TIMERS,
      on: (event) => this.#receive(event),
    });
  }

  /** Opens the source with `open(on)` while the stream connects: no audio waits for the network. */
  async start(open) {
    this.#stream.start();
    try {
      this.#source = await open({
        frame: (pcm) => this.#capture(pcm),
        level: this.#onLevel,
        ended: this.#onSourceEnd,
      });
    } catch (error) {
      this.#stream.abandon();
      throw error;
    }
  }

  /** The recording is over; `onDone` follows when its last word is there. */
  async stop() {
    const source = this.#source;
    this.#source = null;
    await source?.close();
    this.#stream.stop();
  }

  /** Do not wait any longer. */
  abandon() {
    this.#stream.abandon();
  }

  useKey(key) {
    this.#stream.unblock(key);
  }

  get source() {
    return this.#source;
  }

  #capture(pcm) {
    this.captured += pcm.length;
    for (const meter of Object.values(this.#latency)) meter.capturedUpTo(this.captured, performance.now());
    this.#stream.push(pcm);
    this.#view.showRecorded(this.#offset + this.captured / RATE);
  }

  #receive(event) {
    switch (event.type) {
      case "state":
        return this.#showState(event);
      case "ready":
        return this.#showReady(event);
      case "partial":
        return this.#showPartial(event);
      case "final":
        return this.#showFinal(event);
      case "restarted":
        return this.#dropPartial();
      case "notice":
        return this.#showNotice(event);
      case "lost":
        return this.#showLoss(event);
      case "trouble":
        return this.#showTrouble(event);
      case "done":
        return this.#finish(event);
      default:
        return undefined; // speech_started, utterance_end, and what later servers may add
    }
  }

  #showState({ state }) {
    this.#view.showConnection(CONNECTION[state]);
    this.#onConnection(state);
    if (state !== "live") return;
    this.#view.clearTrouble();
    this.#view.showPassing("");
    this.#view.askForKey(false);
  }

  #showReady(event) {
    this.#view.showBackend({ ...event, status: "ready" }, true);
  }

  #showPartial(event) {
    this.#transcript.setPartial(this.#onPageClock(event));
    this.#view.showPartial(this.#transcript.partial);
    if (event.text) this.#measure("partial", event.end);
  }

  #showFinal(event) {
    const segment = this.#transcript.addFinal(this.#onPageClock(event));
    this.#view.showPartial(null);
    if (!segment) return;
    this.#view.addFinal(segment);
    this.#view.showTotals(this.#transcript.finals);
    this.#measure("final", event.end);
  }

  #dropPartial() {
    this.#transcript.partial = null;
    this.#view.showPartial(null);
  }

  #measure(kind, end) {
    if (!this.#isLive) return;
    this.#latency[kind].shown(end, performance.now());
    this.#view.showLatency(kind, this.#latency[kind]);
  }

  #showNotice({ code, message }) {
    if (code === "audio_lost") {
      this.#lostByEngine.push(message);
      this.#showLosses();
    } else this.#view.showPassing(code === "engine_recovered" ? "" : message);
  }

  #showLoss({ seconds }) {
    this.#lostSeconds += seconds;
    this.#showLosses();
  }

  #showLosses() {
    const away = `The connection has been away too long: ${Math.ceil(this.#lostSeconds)} s of sound could not be kept.`;
    this.#view.showLoss([...this.#lostByEngine, ...(this.#lostSeconds ? [away] : [])].join(" "));
  }

  #showTrouble(event) {
    this.#view.showTrouble({ ...adviceFor(event), code: event.code });
    if (["unauthorized", "not_opened"].includes(event.code)) this.#view.askForKey(true);
  }

  #finish({ ok }) {
    this.#dropPartial();
    this.#view.showPassing("");
    this.#onDone(ok);
  }

  #onPageClock(event) {
    const shift = (part) => ({ ...part, start: part.start + this.#offset, end: part.end + this.#offset });
    return { ...shift(event), words: (event.words ?? []).map(shift) };
  }
}
