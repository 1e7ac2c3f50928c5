import assert from "node:assert/strict";
import { test } from "node:test";

import { Resampler } from "../../static/resampler.js";

const QUANTUM = 128;

function resample(inputRate, samples, chunk = QUANTUM) {
  const resampler = new Resampler(inputRate);
  const pieces = [];
  for (let start = 0; start < samples.length; start += chunk) {
    pieces.push(resampler.process(samples.subarray(start, start + chunk)).slice());
  }
  pieces.push(resampler.flush().slice());
  const output = new Float32Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    output.set(piece, at);
    at += piece.length;
  }
  return output;
}

function sine(frequency, rate, seconds, amplitude = 0.5) {
  const samples = new Float32Array(Math.round(rate * seconds));
  for (let n = 0; n < samples.length; n += 1) {
    samples[n] = amplitude * Math.sin((2 * Math.PI * frequency * n) / rate);
  }
  return samples;
}

function rmsDb(samples) {
  let energy = 0;
  for (const sample of samples) energy += sample * sample;
  return 10 * Math.log10(energy / samples.length + 1e-30);
}

function middle(samples) {
  return samples.subarray(1600, samples.length - 1600);
}

for (const rate of [48000, 44100]) {
  test(`sixty seconds at ${rate} Hz are 960,000 samples, give or take one`, () => {
    const output = resample(rate, new Float32Array(60 * rate));
    assert.ok(Math.abs(output.length - 960000) <= 1, `got ${output.length}`);
  });
}

for (const rate of [8000, 11025, 12000, 16000, 22050, 24000, 32000, 37801, 44100, 48000, 88200, 96000, 176400, 192000]) {
  test(`${rate} Hz keeps length, pitch, level and phase`, () => {
    const frequency = Math.min(1000, rate / 4);
    const output = resample(rate, sine(frequency, rate, 2));
    assert.ok(Math.abs(output.length - 32000) <= 1, `got ${output.length} samples`);
    const expected = sine(frequency, 16000, 2);
    const error = output.map((sample, n) => sample - (expected[n] ?? 0));
    const snr = rmsDb(middle(expected)) - rmsDb(middle(error));
    assert.ok(snr > 70, `SNR ${snr.toFixed(1)} dB`);
  });
}

for (const rate of [44100, 48000, 96000, 192000]) {
  for (const frequency of [8050, 9000, 12000, 15900, 16100, 20000]) {
    test(`${frequency} Hz at ${rate} Hz leaves nothing audible behind`, () => {
      const input = sine(frequency, rate, 1);
      const attenuation = rmsDb(input) - rmsDb(middle(resample(rate, input)));
      assert.ok(attenuation >= 60, `only ${attenuation.toFixed(1)} dB down`);
    });
  }
}

for (const frequency of [100, 1000, 3000, 5000, 7000]) {
  test(`${frequency} Hz at 48,000 Hz passes unchanged`, () => {
    const input = sine(frequency, 48000, 1);
    const change = rmsDb(middle(resample(48000, input))) - rmsDb(input);
    assert.ok(Math.abs(change) < 0.05, `${change.toFixed(3)} dB`);
  });
}

test("chunk sizes make no difference to any sample", () => {
  const input = sine(440, 44100, 1);
  const whole = resample(44100, input, input.length);
  for (const chunk of [1, 7, 128, 1000, 5000]) {
    assert.deepEqual(resample(44100, input, chunk), whole);
  }
});

test("no sample of the end is lost: an impulse in the last millisecond comes out", () => {
  const input = new Float32Array(48000);
  input[47980] = 1;
  const output = resample(48000, input);
  assert.equal(output.length, 16000);
  assert.ok(Math.abs(output[15993]) > 0.2);
});

test("one minute costs the audio thread under three seconds of one core", () => {
  const started = performance.now();
  resample(48000, sine(440, 48000, 60));
  assert.ok(performance.now() - started < 3000, `${Math.round(performance.now() - started)} ms`);
});
