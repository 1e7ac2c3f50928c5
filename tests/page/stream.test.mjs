import assert from "node:assert/strict";
import { test } from "node:test";

import { TranscriptionStream } from "../../static/stream.js";
import { FakeSocket, FakeTimers, settled } from "./fakes.mjs";

const FRAME = 1600;
const SECOND = 16000;

/** A recording whose sample n has the value n mod 30,000, so that every sample can be recognised again. */
function recording(from, frames) {
  return Array.from({ length: frames }, (_, f) =>
    Int16Array.from({ length: FRAME }, (_, n) => (from + f * FRAME + n) % 30000),
  );
}

function samples(from, to) {
  return Array.from({ length: to - from }, (_, n) => (from + n) % 30000);
}

function begin({ diagnose = async () => ({ code: "unreachable" }), key = "" } = {}) {
  const timers = new FakeTimers();
  const sockets = [];
  const events = [];
  const stream = new TranscriptionStream({
    config: { sample_rate: 16000 },
    key,
    connect: (protocols) => sockets[sockets.push(new FakeSocket(protocols)) - 1],
    diagnose,
    timers,
    random: () => 0.5,
    on: (event) => events.push(event),
  });
  let position = 0;
  const record = (frames) => {
    for (const pcm of recording(position, frames)) stream.push(pcm);
    position += frames * FRAME;
  };
  stream.start();
  return { stream, timers, sockets, events, record };
}

const ready = (seq = 1, extra = {}) => ({ type: "ready", seq, stream_id: "s", resume: null, ...extra });
const of = (events, type) => events.filter((event) => event.type === type);
const states = (events) => of(events, "state").map((event) => event.state);

function openTo(socket, extra = {}) {
  socket.open();
  socket.say(ready(1, extra));
}

test("audio recorded before the socket opens is sent, in order, after ready", async () => {
  const { timers, sockets, record } = begin();
  record(15);
  sockets[0].open();
  assert.deepEqual(sockets[0].messages, [{ type: "start", config: { sample_rate: 16000 } }]);
  sockets[0].say(ready());
  record(1);
  await timers.advance(200);
  assert.deepEqual(sockets[0].audio, samples(0, 16 * FRAME));
});

test("a backlog is sent at ten times real time, and stop follows the last sample", async () => {
  const { stream, timers, sockets, record } = begin();
  record(25);
  openTo(sockets[0]);
  stream.stop();
  assert.equal(sockets[0].audio.length, 10 * FRAME);
  await timers.advance(250);
  assert.deepEqual(sockets[0].audio, samples(0, 25 * FRAME));
  assert.deepEqual(sockets[0].commands.map((command) => command.type), ["start", "stop"]);
  assert.deepEqual(sockets[0].messages.at(-1), { type: "stop" });
});

test("done ends the stream and leaves no timer behind", () => {
  const { stream, timers, sockets, events, record } = begin();
  openTo(sockets[0]);
  record(1);
  stream.stop();
  sockets[0].say({ type: "done", seq: 2, audio_s: 0.1, segments: 0, text: "" });
  assert.deepEqual(events.at(-1), { type: "done", ok: true });
  assert.equal(timers.count, 0);
});

test("after a drop the session is resumed and audio is sent again from the last acknowledgement", async () => {
  const { timers, sockets, events, record } = begin();
  openTo(sockets[0], { resume: { token: "t0", ttl_s: 60 } });
  record(30);
  await timers.advance(500);
  sockets[0].say({ type: "ack", seq: 2, audio_s: 2 });
  sockets[0].drop();
  record(5);
  await timers.advance(1000);
  sockets[1].open();
  assert.deepEqual(sockets[1].messages, [{ type: "resume", token: "t0", last_seq: 2 }]);
  sockets[1].say(ready(3, { resume: { token: "t0", ttl_s: 60 } }));
  await timers.advance(500);
  assert.deepEqual(sockets[1].audio, samples(2 * SECOND, 35 * FRAME));
  assert.equal(of(events, "restarted").length, 0);
});

test("a session begun before the server was asked to resume another is passed over", async () => {
  const { timers, sockets, record } = begin();
  openTo(sockets[0], { resume: { token: "t0", ttl_s: 60 } });
  record(30);
  await timers.advance(500);
  sockets[0].say({ type: "ack", seq: 2, audio_s: 1 });
  sockets[0].drop();
  await timers.advance(1000);
  sockets[1].open();
  sockets[1].say(ready(1, { audio_s: 0, resume: { token: "other", ttl_s: 60 } }));
  sockets[1].say(ready(3, { audio_s: 2.5, resume: { token: "t0", ttl_s: 60 } }));
  await timers.advance(500);
  assert.deepEqual(sockets[1].audio, samples(2.5 * SECOND, 30 * FRAME));
});

test("a server that says how much audio it holds is believed", async () => {
  const { timers, sockets, record } = begin();
  openTo(sockets[0], { resume: { token: "t0", ttl_s: 60 } });
  record(30);
  await timers.advance(500);
  sockets[0].say({ type: "ack", seq: 2, audio_s: 1 });
  sockets[0].drop();
  await timers.advance(1000);
  sockets[1].open();
  sockets[1].say(ready(3, { audio_s: 2.5 }));
  await timers.advance(500);
  assert.deepEqual(sockets[1].audio, samples(2.5 * SECOND, 30 * FRAME));
});

test("events repeated by a resumed session are shown once", async () => {
  const { timers, sockets, events } = begin();
  openTo(sockets[0], { resume: { token: "t0", ttl_s: 60 } });
  const final = { type: "final", seq: 2, segment: 0, text: "one", start: 0, end: 1, words: [] };
  sockets[0].say(final);
  sockets[0].drop();
  await timers.advance(1000);
  sockets[1].open();
  sockets[1].say(final);
  sockets[1].say(ready(3));
  sockets[1].say({ ...final, seq: 4, text: "two" });
  assert.deepEqual(of(events, "final").map((event) => event.text), ["one", "two"]);
});

test("a session that cannot be resumed is begun again after the last final, on the same clock", async () => {
  const { timers, sockets, events, record } = begin();
  openTo(sockets[0], { resume: { token: "t0", ttl_s: 60 } });
  record(40);
  await timers.advance(500);
  sockets[0].say({ type: "final", seq: 2, segment: 0, text: "one", start: 0.5, end: 2, words: [] });
  sockets[0].say({ type: "partial", seq: 3, segment: 1, text: "tw", start: 2.5, end: 3 });
  sockets[0].drop();
  await timers.advance(1000);
  sockets[1].open();
  sockets[1].say({ type: "error", seq: 1, code: "resume_unknown", message: "gone", retryable: false });
  sockets[2].open();
  assert.equal(sockets[2].messages[0].type, "start");
  sockets[2].say(ready());
  await timers.advance(500);
  assert.deepEqual(sockets[2].audio, samples(2 * SECOND, 40 * FRAME));
  const word = { word: "two", start: 0.6, end: 0.9, confidence: null };
  sockets[2].say({ type: "final", seq: 2, segment: 0, text: "two", start: 0.6, end: 0.9, words: [word] });
  const [, second] = of(events, "final");
  assert.deepEqual([second.start, second.end, second.words[0].start], [2.6, 2.9, 2.6]);
  assert.equal(of(events, "restarted").length, 1);
  assert.equal(of(events, "trouble").length, 0);
});

test("after long silence a new stream does not go back to the last final", async () => {
  const { timers, sockets, record } = begin();
  openTo(sockets[0]);
  record(300);
  await timers.advance(5000);
  sockets[0].drop();
  await timers.advance(1000);
  openTo(sockets[1]);
  await timers.advance(5000);
  assert.deepEqual(sockets[1].audio, samples(27 * SECOND, 30 * SECOND));
});

test("more than a minute without a connection loses the oldest audio, says so, and keeps the clock", async () => {
  const { timers, sockets, events, record } = begin();
  record(650);
  openTo(sockets[0]);
  await timers.advance(10000);
  assert.equal(sockets[0].audio.length, 60 * SECOND);
  const lost = of(events, "lost").reduce((sum, event) => sum + event.seconds, 0);
  assert.ok(Math.abs(lost - 5) < 1e-6, `lost ${lost}`);
  sockets[0].say({ type: "final", seq: 2, segment: 0, text: "one", start: 1, end: 2, words: [] });
  assert.equal(of(events, "final")[0].start, 6);
});

test("waits between attempts grow and stay bounded", async () => {
  const { timers, sockets, events } = begin({ diagnose: async () => ({ code: "unreachable" }) });
  for (let n = 0; n < 7; n += 1) {
    sockets.at(-1).drop();
    await timers.advance(20000 * (n < 6));
  }
  const waits = of(events, "state").map((event) => event.retryInS).filter(Boolean);
  assert.deepEqual(waits.slice(0, 6), [0.5, 1, 2, 4, 8, 8]);
});

test("retry_after of an error is waited for", async () => {
  const { sockets, events } = begin();
  openTo(sockets[0]);
  sockets[0].say({ type: "error", code: "at_capacity", message: "full", retryable: true, retry_after_s: 7 });
  sockets[0].drop(1013);
  const [trouble] = of(events, "trouble");
  assert.deepEqual([trouble.code, trouble.message, trouble.fatal], ["at_capacity", "full", false]);
  assert.equal(of(events, "state").at(-1).retryInS, 7);
});

test("an error that cannot be retried ends the recording with the server's message", () => {
  const { timers, sockets, events } = begin();
  openTo(sockets[0]);
  sockets[0].say({ type: "error", code: "bad_config", message: "no such language", retryable: false });
  assert.deepEqual(of(events, "trouble")[0].fatal, true);
  assert.deepEqual(events.at(-1), { type: "done", ok: false });
  assert.equal(timers.count, 0);
});

test("a missing key blocks until one is given, and the recording waits", async () => {
  const { stream, timers, sockets, events, record } = begin({ diagnose: async () => ({ code: "unauthorized" }) });
  record(5);
  sockets[0].drop();
  await settled();
  assert.equal(states(events).at(-1), "blocked");
  await timers.advance(60000);
  assert.equal(sockets.length, 1);
  stream.unblock("s3cret");
  assert.deepEqual(sockets[1].protocols, ["perch.v1", "perch-key.s3cret"]);
  openTo(sockets[1]);
  assert.deepEqual(sockets[1].audio, samples(0, 5 * FRAME));
});

test("a connection that has gone silent is replaced", async () => {
  const { timers, sockets } = begin();
  openTo(sockets[0]);
  await timers.advance(14000);
  assert.deepEqual(sockets[0].commands.map((command) => command.type), ["start", "ping", "ping"]);
  await timers.advance(10000);
  assert.ok(sockets[0].closed);
  assert.equal(sockets.length, 2);
});

test("answers keep a connection alive", async () => {
  const { timers, sockets } = begin();
  openTo(sockets[0]);
  for (let n = 0; n < 10; n += 1) {
    await timers.advance(5000);
    sockets[0].say({ type: "pong", seq: n + 2 });
  }
  assert.equal(sockets.length, 1);
});

test("a socket that never opens is given up after ten seconds", async () => {
  const { timers, sockets, events } = begin();
  await timers.advance(11000);
  assert.ok(sockets[0].closed);
  assert.equal(of(events, "trouble")[0].code, "unreachable");
  assert.equal(sockets.length, 2);
});

test("a drop after stop is repaired: the rest and stop are sent again", async () => {
  const { stream, timers, sockets, events, record } = begin();
  openTo(sockets[0], { resume: { token: "t0", ttl_s: 60 } });
  record(20);
  await timers.advance(300);
  sockets[0].say({ type: "ack", seq: 2, audio_s: 1 });
  stream.stop();
  sockets[0].drop();
  await timers.advance(1000);
  sockets[1].open();
  sockets[1].say(ready(3));
  assert.deepEqual(sockets[1].audio, samples(SECOND, 2 * SECOND));
  assert.deepEqual(sockets[1].messages.at(-1), { type: "stop" });
  sockets[1].say({ type: "done", seq: 4, audio_s: 2, segments: 0, text: "" });
  assert.equal(events.at(-1).ok, true);
});

test("a server that never says done is waited for, but not for ever", async () => {
  const { stream, timers, sockets, events } = begin();
  openTo(sockets[0]);
  stream.stop();
  for (let n = 0; n < 20; n += 1) {
    sockets[0].say({ type: "pong", seq: n + 2 });
    await timers.advance(2000);
  }
  assert.equal(of(events, "done").length, 0);
  await timers.advance(31000);
  assert.equal(events.at(-1).ok, false);
});

test("frames outside the protocol are passed over", () => {
  const { sockets, events } = begin();
  openTo(sockets[0]);
  for (const data of ["not json", "null", "[]", '{"type": 3}', new ArrayBuffer(4)]) sockets[0].onmessage({ data });
  sockets[0].say({ type: "partial", seq: 2, segment: 0, text: "still here", start: 0, end: 1 });
  assert.equal(of(events, "partial").length, 1);
});

test("a session that reached its longest goes on in a new one", async () => {
  const { sockets, events } = begin();
  openTo(sockets[0]);
  sockets[0].say({ type: "error", seq: 2, code: "session_too_long", message: "too long", retryable: false });
  openTo(sockets[1]);
  assert.equal(states(events).at(-1), "live");
});
