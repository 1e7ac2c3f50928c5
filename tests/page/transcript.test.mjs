import assert from "node:assert/strict";
import { test } from "node:test";

import { LatencyMeter } from "../../static/latency.js";
import { Framer, toPcm16 } from "../../static/pcm.js";
import { RetainedAudio } from "../../static/retained-audio.js";
import {
  clock,
  confidenceBand,
  shadedTokens,
  toJson,
  toSrt,
  toText,
  Transcript,
} from "../../static/transcript.js";

const word = (text, start, end, confidence = null) => ({ word: text, start, end, confidence });

function spoken() {
  const transcript = new Transcript();
  transcript.addFinal({ text: "hello there", start: 0.5, end: 1.25, words: [word("hello", 0.5, 0.8, 0.9), word("there", 0.9, 1.25)] });
  transcript.addFinal({ text: "good bye", start: 3661.5, end: 3662.25, words: [], confidence: 0.4 });
  return transcript;
}

test("a partial is replaced and a final ends it", () => {
  const transcript = new Transcript();
  transcript.setPartial({ text: "hel", start: 0, end: 0.2 });
  transcript.setPartial({ text: "hello", start: 0, end: 0.4 });
  assert.equal(transcript.partial.text, "hello");
  transcript.addFinal({ text: "hello", start: 0, end: 0.5 });
  assert.equal(transcript.partial, null);
  assert.equal(transcript.finals.length, 1);
});

test("a final without words leaves no segment but ends the partial", () => {
  const transcript = new Transcript();
  transcript.setPartial({ text: "hm", start: 0, end: 0.2 });
  assert.equal(transcript.addFinal({ text: " ", start: 0, end: 0.5 }), null);
  assert.ok(transcript.isEmpty && transcript.partial === null);
});

test("clear forgets everything", () => {
  const transcript = spoken();
  transcript.clear();
  assert.ok(transcript.isEmpty);
});

test("text has one line per segment", () => {
  assert.equal(toText(spoken().finals), "hello there\ngood bye\n");
});

test("subtitles are numbered, timed to the millisecond and separated by a blank line", () => {
  assert.equal(
    toSrt(spoken().finals),
    "1\n00:00:00,500 --> 00:00:01,250\nhello there\n\n2\n01:01:01,500 --> 01:01:02,250\ngood bye\n",
  );
});

test("a long segment becomes subtitles of at most two lines and six seconds", () => {
  const words = Array.from({ length: 60 }, (_, n) => word(`word${n}`, n * 0.4, n * 0.4 + 0.3));
  const text = words.map((each) => each.word).join(" ");
  const blocks = toSrt([{ text, start: 0, end: 24, words, confidence: null }]).trim().split("\n\n");
  const lines = blocks.map((block) => block.split("\n"));
  assert.ok(lines.every(([, , cue]) => cue.length <= 84));
  assert.equal(lines.map(([, , cue]) => cue).join(" "), text);
  assert.ok(blocks.length >= 4);
});

test("json keeps segments, words, times and unknown confidences", () => {
  const exported = JSON.parse(toJson(spoken().finals));
  assert.equal(exported.text, "hello there good bye");
  assert.deepEqual(exported.segments[0].words[1], { word: "there", start: 0.9, end: 1.25, confidence: null });
  assert.equal(exported.segments[1].confidence, 0.4);
});

test("an empty transcript exports as empty", () => {
  assert.equal(toText([]), "");
  assert.equal(toSrt([]), "");
  assert.deepEqual(JSON.parse(toJson([])), { text: "", segments: [] });
});

test("times are read in tenths and carry over at the minute", () => {
  assert.deepEqual([3.2, 0, 59.96, 61, 3723.4].map(clock), ["0:03.2", "0:00.0", "1:00.0", "1:01.0", "1:02:03.4"]);
});

test("punctuated tokens take their words' confidence; unpaired ones the segment's", () => {
  const words = [word("hello", 0, 1, 0.9), word("there", 1, 2)];
  const paired = shadedTokens({ text: "Hello, there.", words, confidence: 0.1 });
  assert.deepEqual(paired.map((token) => [token.text, token.confidence]), [["Hello,", 0.9], ["there.", null]]);
  const unpaired = shadedTokens({ text: "hello", words, confidence: 0.1 });
  assert.deepEqual(unpaired, [{ text: "hello", confidence: 0.1, start: null }]);
});

test("an unknown confidence has no band", () => {
  assert.deepEqual([null, undefined, 0, 0.49, 0.5, 0.8, 1].map(confidenceBand), [null, null, "low", "low", "medium", "high", "high"]);
});

test("latency is from the capture of the last covered sample to its showing", () => {
  const meter = new LatencyMeter();
  assert.equal(meter.median, null);
  meter.capturedUpTo(32000, 10_000); // two seconds, the newest captured at 10,000 ms
  meter.shown(1.5, 10_100); // captured at 9,500 ms
  meter.shown(2, 10_200);
  meter.shown(2, 10_250);
  assert.equal(meter.last, 250);
  assert.equal(meter.median, 250);
});

test("frames are one size and the rest comes out at the end", () => {
  const framer = new Framer();
  const frames = [...framer.push(new Float32Array(1000)), ...framer.push(new Float32Array(2500)), ...framer.flush()];
  assert.deepEqual(frames.map((frame) => frame.length), [1600, 1600, 300]);
  assert.deepEqual(framer.flush(), []);
});

test("loud samples are clipped, not wrapped", () => {
  assert.deepEqual([...toPcm16(Float32Array.of(0, 1, -1, 2, -2, 0.5))], [0, 32767, -32767, 32767, -32767, 16384]);
});

test("retained audio is bounded and read by position", () => {
  const audio = new RetainedAudio(0.2);
  for (let n = 0; n < 5; n += 1) audio.append(new Int16Array(1600).fill(n));
  assert.deepEqual([audio.base, audio.end], [4800, 8000]);
  assert.deepEqual([audio.read(4800)[0], audio.read(6399).length, audio.read(6400)[0]], [3, 1, 4]);
  assert.throws(() => audio.read(8000), RangeError);
});
