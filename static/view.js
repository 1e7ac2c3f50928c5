// What is on the page. Everything a server or an engine says goes in as text, never as markup.

import { clock, confidenceBand, shadedTokens } from "./transcript.js";

const NEAR_PX = 120;
const BREATHING_ROOM_PX = 28;

const BACKENDS = {
  riva: "NVIDIA Riva",
  engine: "Perch engine",
  embedded: "Embedded demonstration recogniser",
  mock: "Mock recogniser",
};

// The notice of this model is written for whoever installs it: commands, settings.
const DEMONSTRATION = {
  model: "embedded-en-us",
  says: "Demonstration recogniser: many words will be wrong. For real work the operator can install a Parakeet model.",
};

const PASSING_MS = 30_000;
const PACE = "Words appear while you talk and settle when you pause.";

export class View {
  #at = (id) => document.getElementById(id);
  #following = true;
  #passing = null; // the timer that takes the notice of a moment away

  constructor() {
    this.#at("latest").addEventListener("click", () => this.#toLatest());
    addEventListener("scroll", () => this.#noticeScroll(), { passive: true });
  }

  // --- the recogniser -----------------------------------------------------------------------------

  /** Takes what `/ready` answers, and the `ready` event of a session. */
  showBackend({ backend, model, streaming_mode, partials, capabilities, notice, status, problem }, reachable) {
    const ready = reachable && (status === undefined || ["ready", "ok"].includes(status));
    this.#at("backend").dataset.state = !reachable ? "offline" : ready ? "ready" : "waiting";
    const name = BACKENDS[backend] ?? backend ?? "Recogniser";
    this.#say("backend-name", !reachable ? "Server not reachable" : ready ? name : `${name}: not ready yet`);
    const mode = streaming_mode ?? capabilities?.streaming_mode;
    this.#say("backend-model", reachable ? [model, mode].filter(Boolean).join(" · ") : "");
    if (!reachable) return; // what was true of the recogniser still is
    this.#showPace(partials ?? capabilities?.partials);
    this.#show("mock", backend === "mock");
    if (backend === "mock" && notice) this.#say("mock-notice", notice);
    if (problem || backend === "mock") this.#showBackendNotice(problem ?? "");
    else if (notice && model === DEMONSTRATION.model) this.#showBackendNotice(DEMONSTRATION.says, notice);
    else this.#showBackendNotice(notice ?? "");
  }

  #showBackendNotice(text, details = "") {
    this.#say("notice-text", text);
    this.#say("notice-details", details);
    this.#show("notice-more", details !== "");
    this.#show("notice", text !== "");
  }

  /** When words come; a recogniser that does not say has live words, as nearly all have. */
  #showPace(partials) {
    const pace = partials === false ? "Words appear when you pause." : PACE;
    this.#say("pace", pace);
    this.#show("live-words", partials !== false);
  }

  setLanguages(tags, chosen) {
    const names = new Intl.DisplayNames([document.documentElement.lang], { type: "language" });
    const select = this.#at("language");
    const options = tags.map((tag) => new Option(languageName(names, tag), tag));
    select.replaceChildren(select.options[0], ...options);
    select.value = tags.includes(chosen) ? chosen : "";
  }

  setMicrophones(devices, chosen) {
    const select = this.#at("device");
    const options = devices
      .filter((device) => device.deviceId !== "default")
      .map((device, n) => new Option(device.label || `Microphone ${n + 1}`, device.deviceId));
    select.replaceChildren(select.options[0], ...options);
    select.value = devices.some((device) => device.deviceId === chosen) ? chosen : "";
  }

  // --- the recording ------------------------------------------------------------------------------

  showPhase(phase) {
    document.body.dataset.phase = phase;
    const labels = { idle: "Record", opening: "Cancel", recording: "Stop", finishing: "Finish now" };
    this.#say("record-label", labels[phase]);
    this.#at("device").disabled = this.#at("language").disabled = this.#at("clean").disabled = phase !== "idle";
    document.title = `${phase === "recording" ? "● " : ""}Perch · live transcription`;
  }

  showStatus(text) {
    this.#say("status", text);
  }

  showConnection(text) {
    this.#say("connection", text);
  }

  showRecorded(seconds) {
    this.#say("recorded", clock(seconds));
  }

  showLatency(kind, meter) {
    const text = meter.median === null ? "–" : `${duration(meter.median)} · ${duration(meter.last)}`;
    this.#say(`latency-${kind}`, text);
  }

  // --- trouble ------------------------------------------------------------------------------------

  showTrouble({ message, action, code }) {
    this.#say("trouble-message", message);
    this.#say("trouble-advice", ` ${action}`);
    this.#say("trouble-code", code ?? "");
    this.#show("trouble", true);
  }

  clearTrouble() {
    this.#show("trouble", false);
  }

  /** Something of this moment, such as recognition that is behind; an empty text when it is over. */
  showPassing(text) {
    clearTimeout(this.#passing);
    this.#showText("passing", text);
    if (text) this.#passing = setTimeout(() => this.showPassing(""), PASSING_MS);
  }

  /** Sound of this recording that was never recognised. */
  showLoss(text) {
    this.#showText("loss", text);
  }

  askForKey(wanted) {
    const hidden = this.#at("key-form").hidden;
    this.#show("key-form", wanted);
    if (wanted && hidden) this.#at("key").focus();
  }

  // --- the transcript -----------------------------------------------------------------------------

  showPartial(partial) {
    this.#keepingPlace(() => {
      this.#show("partial", partial !== null);
      this.#say("partial-time", partial ? clock(partial.start) : "");
      this.#say("partial-text", partial?.text ?? "");
      if (partial) this.#show("empty", false);
    });
  }

  addFinal(segment) {
    this.#keepingPlace(() => {
      this.#show("empty", false);
      this.#at("finals").append(finalElement(segment));
    });
    this.#say("announcer", segment.text);
  }

  showTotals(finals) {
    const words = finals.reduce((sum, segment) => sum + segment.text.split(/\s+/).length, 0);
    this.#say("words", words.toLocaleString());
    this.#show("legend", finals.some(hasConfidence));
    for (const button of document.querySelectorAll("#copy, #clear, [data-format]")) button.disabled = words === 0;
  }

  clearTranscript() {
    this.#at("finals").replaceChildren();
    this.showPartial(null);
    this.showTotals([]);
    this.#say("announcer", "");
    this.#show("empty", true);
  }

  #keepingPlace(change) {
    const following = this.#following;
    change();
    if (following) this.#toLatest();
    else this.#noticeScroll();
  }

  #toLatest() {
    const hidden = this.#hiddenBelow();
    if (hidden > 0 || !this.#following) window.scrollBy({ top: hidden, behavior: "instant" });
    this.#noticeScroll();
  }

  #noticeScroll() {
    this.#following = this.#hiddenBelow() <= NEAR_PX;
    this.#show("latest", !this.#following && document.body.dataset.phase === "recording");
  }

  /** How far the transcript's end is below what the dock leaves visible; negative when it is in view. */
  #hiddenBelow() {
    const visible = this.#at("record").closest("footer").getBoundingClientRect().top - BREATHING_ROOM_PX;
    return this.#at("end").getBoundingClientRect().bottom - visible;
  }

  #say(id, text) {
    const element = this.#at(id);
    if (element.textContent !== text) element.textContent = text;
  }

  #show(id, shown) {
    this.#at(id).hidden = !shown;
  }

  #showText(id, text) {
    this.#say(id, text);
    this.#show(id, text !== "");
  }
}

function finalElement(segment) {
  const item = document.createElement("li");
  item.className = "final";
  const time = document.createElement("time");
  time.className = "time";
  time.textContent = clock(segment.start);
  const said = document.createElement("p");
  said.className = "said";
  for (const token of shadedTokens(segment)) said.append(wordElement(token), " ");
  item.append(time, said);
  return item;
}

function wordElement({ text, confidence, start }) {
  const word = document.createElement("span");
  word.className = "word";
  word.textContent = text;
  const band = confidenceBand(confidence);
  if (band) word.dataset.confidence = band;
  const facts = [start === null ? "" : clock(start), band ? `${Math.round(confidence * 100)} % sure` : ""];
  word.title = facts.filter(Boolean).join(" · ");
  return word;
}

function hasConfidence(segment) {
  return shadedTokens(segment).some((token) => confidenceBand(token.confidence));
}

function languageName(names, tag) {
  try {
    return names.of(tag) ?? tag;
  } catch {
    return tag; // engines also list tags of their own, such as "multi"
  }
}

function duration(milliseconds) {
  return milliseconds < 995 ? `${Math.round(milliseconds / 10) * 10} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}
