// The microphone: permission, device choice, and the worklet that turns it into PCM frames.

const WORKLET = new URL("./capture-worklet.js", import.meta.url);

const END_DEADLINE_MS = 1000;

/** What kept the microphone from opening: `code` says which advice to show. */
export class CaptureFailed extends Error {
  constructor(code, cause) {
    super(code, { cause });
    this.code = code;
  }
}

/** The audio inputs. Labels are empty until the user has once allowed the microphone. */
export async function listMicrophones() {
  if (!navigator.mediaDevices) return [];
  const devices = await navigator.mediaDevices.enumerateDevices();
  return devices.filter((device) => device.kind === "audioinput" && device.deviceId);
}

/** One recording. `on` = {frame(Int16Array), level({peak, rms}), ended()}: ended means the device went away. */
export class Capture {
  #stream;
  #context;
  #node;
  #ended;

  static async open({ deviceId, cleanUp, on }) {
    const capture = new Capture();
    try {
      capture.#stream = await requestMicrophone(deviceId, cleanUp);
      await capture.#connect(on);
    } catch (error) {
      await capture.#release();
      throw error instanceof CaptureFailed ? error : new CaptureFailed(failureCode(error), error);
    }
    return capture;
  }

  /** Ends the recording. Every frame, the last short one included, has been given out when this returns. */
  async close() {
    this.#node.port.postMessage("end");
    await Promise.race([this.#ended, delay(END_DEADLINE_MS)]); // a suspended context may never answer
    await this.#release();
  }

  async #connect(on) {
    this.#context = new AudioContext({ latencyHint: "interactive" });
    await this.#context.audioWorklet.addModule(WORKLET);
    this.#node = new AudioWorkletNode(this.#context, "perch-capture", {
      channelCount: 1,
      channelCountMode: "explicit",
      outputChannelCount: [1],
    });
    this.#ended = new Promise((resolve) => {
      this.#node.port.onmessage = ({ data }) => {
        if (data.type === "frame") on.frame(data.pcm);
        else if (data.type === "level") on.level(data);
        else resolve();
      };
    });
    // Some browsers only run nodes that reach the destination; this one's output is silence.
    this.#context.createMediaStreamSource(this.#stream).connect(this.#node).connect(this.#context.destination);
    for (const track of this.#stream.getAudioTracks()) track.onended = on.ended;
    // Phones suspend the context for calls; it does not come back by itself.
    this.#context.onstatechange = () => {
      if (this.#context.state !== "running" && this.#context.state !== "closed") void this.#context.resume();
    };
    await this.#context.resume();
  }

  async #release() {
    for (const track of this.#stream?.getTracks() ?? []) {
      track.onended = null;
      track.stop();
    }
    if (this.#context && this.#context.state !== "closed") await this.#context.close();
  }
}

async function requestMicrophone(deviceId, cleanUp) {
  if (!window.isSecureContext || !navigator.mediaDevices) throw new CaptureFailed("mic_insecure");
  if (!window.AudioWorkletNode) throw new CaptureFailed("browser_too_old");
  return navigator.mediaDevices.getUserMedia({
    audio: {
      channelCount: 1,
      echoCancellation: cleanUp,
      noiseSuppression: cleanUp,
      autoGainControl: cleanUp,
      ...(deviceId ? { deviceId: { exact: deviceId } } : {}),
    },
  });
}

const FAILURES = {
  NotAllowedError: "mic_denied",
  SecurityError: "mic_denied",
  NotFoundError: "mic_missing",
  OverconstrainedError: "mic_missing",
  NotReadableError: "mic_busy",
  AbortError: "mic_busy",
};

function failureCode(error) {
  return FAILURES[error.name] ?? "mic_failed";
}

function delay(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
