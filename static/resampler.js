// A streaming band-limited resampler: Kaiser-windowed sinc, polyphase, state carried over calls.
//
// Output sample n lies at input position n * step / rows exactly, in integers, so no length is ever
// lost to rounding: N input samples give ceil(N * outputRate / inputRate) outputs once flushed.

const STOP_BAND_DB = 80;
const TRANSITION = 0.1; // of the lower Nyquist frequency: 7.2 to 8 kHz when the output is 16 kHz
const MAX_ROWS = 256; // beyond this the filter is interpolated between rows, at -94 dB of error or less

/** Converts mono float samples from one rate to another, in chunks of any size. */
export class Resampler {
  #advance; // the ratio inputRate / outputRate in lowest terms is #advance / #cycle
  #cycle;
  #rows;
  #filter; // #rows + 1 rows of #taps coefficients; row r is the filter delayed by r / #rows of a sample
  #taps;
  #history; // input not yet used up; its first sample is the oldest the next output needs
  #held;
  #phase = 0; // where the next output lies between two input samples, in units of 1 / #cycle
  #skip = 0; // input still to be passed over before #history (when #advance exceeds what was held)
  #output = new Float32Array(0);

  constructor(inputRate, outputRate = 16000) {
    const divisor = greatestCommonDivisor(inputRate, outputRate);
    this.#advance = inputRate / divisor;
    this.#cycle = outputRate / divisor;
    this.#rows = Math.min(this.#cycle, MAX_ROWS);
    const half = halfLength(inputRate, outputRate);
    this.#taps = 2 * half;
    this.#filter = polyphaseFilter(inputRate, outputRate, half, this.#rows);
    this.#history = new Float32Array(this.#taps + 4096);
    this.#held = half - 1; // silence before the first sample, so that the filter adds no delay
  }

  /** The outputs that `input` completes: a view which the next call overwrites. */
  process(input) {
    const samples = this.#skipped(input);
    this.#hold(samples);
    const outputs = this.#outputsAvailable();
    if (this.#output.length < outputs) this.#output = new Float32Array(outputs);
    for (let n = 0; n < outputs; n += 1) this.#output[n] = this.#interpolate(n);
    this.#consume(outputs);
    return this.#output.subarray(0, outputs);
  }

  /** The last outputs, which waited for input that will not come. Use a new resampler afterwards. */
  flush() {
    return this.process(new Float32Array(this.#taps / 2));
  }

  #skipped(input) {
    const skip = Math.min(this.#skip, input.length);
    this.#skip -= skip;
    return skip ? input.subarray(skip) : input;
  }

  #hold(samples) {
    const needed = this.#held + samples.length;
    if (needed > this.#history.length) {
      const larger = new Float32Array(needed);
      larger.set(this.#history.subarray(0, this.#held));
      this.#history = larger;
    }
    this.#history.set(samples, this.#held);
    this.#held = needed;
  }

  #outputsAvailable() {
    const spare = this.#held - this.#taps; // output n needs floor((phase + n * advance) / cycle) <= spare
    if (spare < 0) return 0;
    return Math.floor(((spare + 1) * this.#cycle - 1 - this.#phase) / this.#advance) + 1;
  }

  #interpolate(n) {
    const position = this.#phase + n * this.#advance;
    const base = Math.floor(position / this.#cycle);
    const between = ((position - base * this.#cycle) * this.#rows) / this.#cycle;
    const row = Math.floor(between);
    const weight = between - row;
    const value = this.#dot(base, row);
    return weight === 0 ? value : value + weight * (this.#dot(base, row + 1) - value);
  }

  #dot(base, row) {
    const history = this.#history;
    const filter = this.#filter;
    const taps = this.#taps;
    const offset = row * taps;
    let sum = 0;
    for (let k = 0; k < taps; k += 1) sum += history[base + k] * filter[offset + k];
    return sum;
  }

  #consume(outputs) {
    const position = this.#phase + outputs * this.#advance;
    const used = Math.floor(position / this.#cycle);
    this.#phase = position - used * this.#cycle;
    const dropped = Math.min(used, this.#held);
    this.#history.copyWithin(0, dropped, this.#held);
    this.#held -= dropped;
    this.#skip += used - dropped;
  }
}

function halfLength(inputRate, outputRate) {
  const transition = (TRANSITION * Math.min(inputRate, outputRate)) / 2 / inputRate; // cycles per input sample
  return Math.ceil((STOP_BAND_DB - 8) / (2.285 * 2 * Math.PI * transition) / 2); // Kaiser's estimate
}

function polyphaseFilter(inputRate, outputRate, half, rows) {
  const nyquist = Math.min(inputRate, outputRate) / 2 / inputRate;
  const cutoff = nyquist * (1 - TRANSITION / 2); // the middle of the transition band
  const beta = 0.1102 * (STOP_BAND_DB - 8.7);
  const taps = 2 * half;
  const filter = new Float32Array((rows + 1) * taps);
  for (let row = 0; row <= rows; row += 1) {
    const coefficients = filter.subarray(row * taps, (row + 1) * taps);
    let sum = 0;
    for (let k = 0; k < taps; k += 1) {
      const distance = k - (half - 1) - row / rows;
      coefficients[k] = lowPass(distance, cutoff) * kaiser(distance / half, beta);
      sum += coefficients[k];
    }
    for (let k = 0; k < taps; k += 1) coefficients[k] /= sum; // unit gain at DC for every phase
  }
  return filter;
}

function lowPass(distance, cutoff) {
  if (distance === 0) return 2 * cutoff;
  return Math.sin(2 * Math.PI * cutoff * distance) / (Math.PI * distance);
}

function kaiser(position, beta) {
  if (Math.abs(position) > 1) return 0;
  return besselI0(beta * Math.sqrt(1 - position * position)) / besselI0(beta);
}

function besselI0(x) {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > sum * 1e-12; k += 1) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

function greatestCommonDivisor(a, b) {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
