// The level meter: a waveform of the last seconds, or one bar for people who want less motion.

const BAR = 3;
const GAP = 2;
const LEVELS_PER_BAR = 2;
const FLOOR_DB = -60;
const CONTRAST = 2; // decibels alone make all speech look equally loud
const TELL_EVERY_MS = 500;

export class Meter {
  #element;
  #canvas;
  #bars = [];
  #building = [];
  #frame = 0;
  #toldAt = 0;
  #still = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(element, canvas) {
    this.#element = element;
    this.#canvas = canvas;
    new ResizeObserver(() => this.#draw()).observe(canvas);
  }

  /** One measurement, about every 20 ms. */
  push({ peak, rms }) {
    this.#building.push(peak);
    if (this.#building.length >= LEVELS_PER_BAR) {
      this.#bars.push(Math.max(...this.#building));
      this.#building = [];
      if (this.#bars.length > 1000) this.#bars.splice(0, 500);
    }
    this.#tell(rms);
    this.#redraw();
  }

  /** Recording is over: the waveform stays, the level falls to nothing. */
  rest() {
    this.#toldAt = 0;
    this.#tell(0);
    this.#redraw();
  }

  clear() {
    this.#bars = [];
    this.rest();
  }

  #tell(rms) {
    const now = performance.now();
    if (this.#toldAt && now - this.#toldAt < TELL_EVERY_MS) return;
    this.#toldAt = now;
    const decibels = Math.round(Math.max(FLOOR_DB, Math.min(0, 20 * Math.log10(rms + 1e-9))));
    this.#element.setAttribute("aria-valuenow", String(decibels));
    this.#element.setAttribute("aria-valuetext", describe(decibels));
    this.#element.dataset.level = describe(decibels);
  }

  #redraw() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  #draw() {
    const canvas = this.#canvas;
    const scale = devicePixelRatio;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    context.fillStyle = getComputedStyle(canvas).color;
    if (this.#still.matches) this.#drawLevel(context, width, height);
    else this.#drawWave(context, width, height);
  }

  #drawLevel(context, width, height) {
    const level = height01(this.#bars.at(-1) ?? 0);
    context.globalAlpha = 0.25;
    context.fillRect(0, height / 2 - 3, width, 6);
    context.globalAlpha = 1;
    context.fillRect(0, height / 2 - 3, width * level, 6);
  }

  #drawWave(context, width, height) {
    const room = Math.floor(width / (BAR + GAP));
    const shown = this.#bars.slice(-room);
    for (let n = 0; n < room; n += 1) {
      const level = shown[shown.length - 1 - n] ?? 0;
      const size = Math.max(BAR, height01(level) * height);
      context.globalAlpha = (level ? 1 : 0.35) * (1 - 0.75 * (n / room));
      context.beginPath();
      context.roundRect(width - (n + 1) * (BAR + GAP), (height - size) / 2, BAR, size, BAR / 2);
      context.fill();
    }
  }
}

function height01(peak) {
  return Math.max(0, 1 + (20 * Math.log10(peak + 1e-9)) / -FLOOR_DB) ** CONTRAST;
}

function describe(decibels) {
  if (decibels <= -50) return "silent";
  if (decibels <= -35) return "quiet";
  return decibels <= -6 ? "good" : "too loud";
}
