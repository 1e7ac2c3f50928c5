// The client of the native protocol (perch.v1): one recording over as many connections as it takes.
//
// Positions are samples from the recording's start. The server counts from the start of *its* stream;
// when a new stream has to begin mid-way, `#origin` is the difference, and events leave here on the
// recording's clock. The audio of the last minute is kept, so a connection that drops, or opens late,
// costs no words.

import { RATE } from "./pcm.js";
import { RetainedAudio } from "./retained-audio.js";

const OPEN_DEADLINE_MS = 10_000;
const PING_EVERY_MS = 5_000;
const SILENCE_DEADLINE_MS = 15_000; // no answer to three pings: the network ate the connection
const STOP_DEADLINE_MS = 30_000; // after stop, without any event
const CATCH_UP_MS = 100;
const CATCH_UP_FRAMES = 10; // per CATCH_UP_MS: a backlog goes out at ten times real time at most
const SEND_BUFFER_BYTES = 256 * 1024;
const FIRST_RETRY_S = 0.5;
const LONGEST_RETRY_S = 8;
const PARTIAL_LEAD_S = 1; // a partial's start is approximate: begin again this much earlier
const UNHEARD_S = 3; // audio sent this recently may not have shown in any event yet
const ENDS_ONE_STREAM = new Set(["resume_unknown", "session_too_long"]); // another can begin at once

/**
 * Streams one recording and reports to `on(event)`:
 *
 * - `state` {state: connecting | live | retrying | blocked | closed, retryInS?}; blocked needs `unblock(key)`
 * - `ready`, `partial`, `final`, `speech_started`, `utterance_end`, `notice`: the server's, on the recording's clock
 * - `restarted`: a new stream took over; the open partial is void
 * - `lost` {seconds}: audio too old to be kept was never recognised
 * - `trouble` {code, message, fatal}: something to tell the user; the state says whether it goes on
 * - `done` {ok}: always last
 *
 * `connect(protocols)` opens a WebSocket; `diagnose(key)` finds out why one would not open and resolves
 * to {code, message?, retryAfterS?}; `timers` = {now, set, clear}.
 */
export class TranscriptionStream {
  #config;
  #connect;
  #diagnose;
  #timers;
  #random;
  #on;
  #key;

  #audio = new RetainedAudio();
  #sent = 0;
  #origin = 0;
  #acked = 0;
  #finalEnd = 0;
  #partialStart = null;
  #resume = null; // {token, until}
  #lastSeq = 0;

  #state = "idle";
  #socket = null;
  #opening = null; // "start" | "resume" while a connection awaits its ready
  #heard = 0;
  #attempts = 0;
  #retryAfterS = 0;
  #stopping = false;
  #stopSent = false;
  #timer = {}; // by purpose, so that each can be replaced and all be cleared

  constructor({ config, key = "", connect, diagnose, timers, random = Math.random, on }) {
    this.#config = config;
    this.#key = key;
    this.#connect = connect;
    this.#diagnose = diagnose;
    this.#timers = timers;
    this.#random = random;
    this.#on = on;
  }

  start() {
    this.#open();
  }

  /** The next samples of the recording, at any time before `stop`, connected or not. */
  push(pcm) {
    this.#audio.append(pcm);
    const missed = this.#audio.base - this.#sent;
    if (missed > 0) this.#skipLost(missed);
    if (!this.#timer.pump) this.#pump();
  }

  /** The recording is over: send the rest, and wait for `done`. */
  stop() {
    if (this.#stopping || this.#state === "closed") return;
    this.#stopping = true;
    this.#extendStop();
    if (!this.#timer.pump) this.#pump();
  }

  /** Try again now, with this key. */
  unblock(key) {
    this.#key = key;
    if (this.#state === "blocked" || this.#state === "retrying") this.#open();
  }

  /** Give up: nothing more is sent or reported, except `done`. */
  abandon() {
    this.#finish(false);
  }

  // --- connecting ---------------------------------------------------------------------------------

  #open() {
    this.#clear("retry");
    this.#setState("connecting");
    this.#opening = null;
    this.#stopSent = false;
    const socket = this.#connect(this.#key ? ["perch.v1", `perch-key.${this.#key}`] : ["perch.v1"]);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    const mine = (handle) => (event) => (this.#socket === socket ? handle(event) : undefined);
    socket.onopen = mine(() => this.#hello());
    socket.onmessage = mine(({ data }) => this.#receive(data));
    socket.onclose = mine(() => this.#lost());
    this.#set("open", OPEN_DEADLINE_MS, () => this.#lost());
  }

  #hello() {
    if (this.#canResume()) {
      this.#opening = "resume";
      this.#send({ type: "resume", token: this.#resume.token, last_seq: this.#lastSeq });
      return;
    }
    this.#opening = "start";
    this.#resume = null;
    this.#send({ type: "start", config: this.#config });
  }

  #canResume() {
    return this.#resume !== null && this.#timers.now() < this.#resume.until && this.#acked >= this.#audio.base;
  }

  #lost() {
    const opened = this.#opening !== null;
    this.#dropSocket();
    if (opened) this.#retryLater();
    else void this.#retryAfterDiagnosis();
  }

  async #retryAfterDiagnosis() {
    this.#setState("retrying");
    const cause = await this.#diagnose(this.#key);
    if (this.#state !== "retrying" || this.#timer.retry) return; // abandoned or unblocked meanwhile
    const blocked = cause.code === "unauthorized";
    this.#emit({ type: "trouble", fatal: false, ...cause });
    if (blocked) this.#setState("blocked");
    else {
      this.#retryAfterS = cause.retryAfterS ?? 0;
      this.#retryLater();
    }
  }

  #retryLater() {
    const backOff = Math.min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** this.#attempts);
    const delayS = Math.max(this.#retryAfterS, backOff) * (0.75 + 0.5 * this.#random());
    this.#attempts += 1;
    this.#retryAfterS = 0;
    this.#setState("retrying", { retryInS: delayS });
    this.#set("retry", delayS * 1000, () => this.#open());
  }

  #dropSocket() {
    const socket = this.#socket;
    this.#socket = null;
    this.#opening = null;
    for (const purpose of ["open", "ping", "pump"]) this.#clear(purpose);
    socket?.close();
  }

  // --- sending ------------------------------------------------------------------------------------

  #pump() {
    this.#clear("pump");
    if (this.#state !== "live") return;
    for (let n = 0; n < CATCH_UP_FRAMES && this.#sent < this.#audio.end; n += 1) {
      if (this.#socket.bufferedAmount > SEND_BUFFER_BYTES) break;
      const pcm = this.#audio.read(this.#sent);
      this.#socket.send(pcm);
      this.#sent += pcm.length;
    }
    if (this.#sent < this.#audio.end) this.#set("pump", CATCH_UP_MS, () => this.#pump());
    else if (this.#stopping && !this.#stopSent) this.#sendStop();
  }

  #sendStop() {
    this.#stopSent = true;
    this.#send({ type: "stop" });
  }

  #send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  #ping() {
    if (this.#timers.now() - this.#heard > SILENCE_DEADLINE_MS) {
      this.#lost();
      return;
    }
    this.#send({ type: "ping" });
    this.#set("ping", PING_EVERY_MS, () => this.#ping());
  }

  // --- receiving ----------------------------------------------------------------------------------

  #receive(data) {
    const event = parse(data);
    if (event === null) return;
    this.#heard = this.#timers.now();
    if (this.#stopping) this.#extendStop();
    if (event.type === "ready") return void this.#receiveReady(event);
    if (event.type === "error") return void this.#receiveError(event);
    if (this.#isRepeated(event)) return;
    if (event.type === "ack") this.#receiveAck(event);
    else if (event.type === "done") this.#finish(true);
    else if (event.type !== "pong") this.#receiveResult(event);
  }

  #receiveAck(event) {
    this.#acked = this.#position(event.audio_s);
    this.#attempts = 0; // only now has the connection been worth something: ready alone may flap
  }

  #isRepeated(event) {
    if (this.#opening === "start") return false;
    if (event.seq <= this.#lastSeq) return true;
    this.#lastSeq = event.seq ?? this.#lastSeq;
    return false;
  }

  #receiveReady(event) {
    // A slow network: the server began a session of its own before it was asked to resume one.
    if (this.#opening === "resume" && event.resume && event.resume.token !== this.#resume.token) return;
    this.#clear("open");
    if (this.#opening === "resume") this.#sent = this.#resumedAt(event);
    else this.#begin();
    this.#lastSeq = event.seq ?? this.#lastSeq;
    if (event.resume) {
      this.#resume = { token: event.resume.token, until: this.#timers.now() + event.resume.ttl_s * 1000 };
    }
    this.#opening = "done";
    this.#setState("live");
    this.#emit(event);
    this.#set("ping", PING_EVERY_MS, () => this.#ping());
    this.#pump();
  }

  #resumedAt(event) {
    // A server that says how much it holds knows better than the last ack we saw.
    const position = typeof event.audio_s === "number" ? this.#position(event.audio_s) : this.#acked;
    return Math.min(Math.max(position, this.#audio.base), this.#audio.end);
  }

  #begin() {
    const anew = this.#sent > 0 || this.#origin > 0;
    this.#origin = this.#restartPosition();
    this.#sent = this.#acked = this.#origin;
    this.#partialStart = null;
    this.#lastSeq = 0;
    if (anew) this.#emit({ type: "restarted" });
  }

  /** Where a new stream has to begin so that every word is heard once. */
  #restartPosition() {
    const unsettled = this.#partialStart === null ? this.#sent - UNHEARD_S * RATE : this.#partialStart - PARTIAL_LEAD_S * RATE;
    return Math.max(this.#audio.base, this.#finalEnd, Math.min(unsettled, this.#sent));
  }

  #receiveError(event) {
    const { code, message, retryable, retry_after_s: retryAfterS } = event;
    if (ENDS_ONE_STREAM.has(code)) {
      this.#resume = null;
      this.#dropSocket();
      this.#open();
      return;
    }
    const blocked = code === "unauthorized";
    this.#emit({ type: "trouble", code, message, retryAfterS, fatal: !retryable && !blocked });
    if (blocked) {
      this.#dropSocket();
      this.#setState("blocked");
    } else if (retryable) this.#retryAfterS = retryAfterS ?? 0; // the close that follows starts the wait
    else this.#finish(false);
  }

  #receiveResult(event) {
    const shifted = this.#shift(event);
    if (event.type === "partial") this.#partialStart = event.text ? this.#position(event.start) : null;
    if (event.type === "final") {
      this.#partialStart = null;
      this.#finalEnd = Math.max(this.#finalEnd, this.#position(event.end));
    }
    this.#emit(shifted);
  }

  #position(serverSeconds) {
    return this.#origin + Math.round(serverSeconds * RATE);
  }

  #shift(event) {
    const offset = this.#origin / RATE;
    const shifted = { ...event };
    if (typeof event.start === "number") shifted.start = event.start + offset;
    if (typeof event.end === "number") shifted.end = event.end + offset;
    if (typeof event.at === "number") shifted.at = event.at + offset;
    if (event.words) {
      shifted.words = event.words.map((word) => ({ ...word, start: word.start + offset, end: word.end + offset }));
    }
    return shifted;
  }

  // --- ending -------------------------------------------------------------------------------------

  #skipLost(missed) {
    this.#sent = this.#audio.base;
    this.#resume = null; // the server's clock would lag behind: a new stream starts after the gap
    this.#emit({ type: "lost", seconds: missed / RATE });
  }

  #extendStop() {
    this.#set("stop", STOP_DEADLINE_MS, () => {
      if (this.#state === "blocked") return void this.#extendStop(); // waiting for a person, not a server
      this.#emit({ type: "trouble", code: "no_answer", fatal: true });
      this.#finish(false);
    });
  }

  #finish(ok) {
    if (this.#state === "closed") return;
    this.#dropSocket();
    for (const purpose of Object.keys(this.#timer)) this.#clear(purpose);
    this.#setState("closed");
    this.#emit({ type: "done", ok });
  }

  #setState(state, detail = {}) {
    this.#state = state;
    this.#emit({ type: "state", state, ...detail });
  }

  #emit(event) {
    this.#on(event);
  }

  #set(purpose, milliseconds, run) {
    this.#clear(purpose);
    this.#timer[purpose] = this.#timers.set(() => {
      delete this.#timer[purpose];
      run();
    }, milliseconds);
  }

  #clear(purpose) {
    if (purpose in this.#timer) this.#timers.clear(this.#timer[purpose]);
    delete this.#timer[purpose];
  }
}

function parse(data) {
  if (typeof data !== "string") return null;
  try {
    const event = JSON.parse(data);
    return typeof event?.type === "string" ? event : null;
  } catch {
    return null; // a frame outside the protocol; later ones may still be good
  }
}
