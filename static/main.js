// The page's controls, wired to what they do.

import { adviceFor } from "./advice.js";
import { AudioFile } from "./audio-file.js";
import { Capture, CaptureFailed, listMicrophones } from "./capture.js";
import { fetchLanguages, fetchReadiness } from "./gateway.js";
import { recallChoice, recallKey, rememberChoice, rememberKey } from "./memory.js";
import { Meter } from "./meter.js";
import { RATE } from "./pcm.js";
import { Session } from "./session.js";
import { wireTheme } from "./theme.js";
import { toJson, toSrt, toText, Transcript } from "./transcript.js";
import { View } from "./view.js";

const READINESS_EVERY_MS = 5000;
const COPIED_MS = 1600;
const KEY = /^[\w!#$%&'*+.^`|~-]+$/; // what a WebSocket subprotocol may carry
const LIKELY_LANGUAGES = ["en-US", "en-GB", "de-DE", "es-ES", "es-US", "fr-FR", "it-IT", "pt-BR", "hi-IN", "ja-JP", "ko-KR", "zh-CN"];
const EXPORTS = {
  txt: [toText, "text/plain"],
  srt: [toSrt, "application/x-subrip"],
  json: [toJson, "application/json"],
};

const at = (id) => document.getElementById(id);
const view = new View();
const meter = new Meter(at("meter"), at("wave"));
const transcript = new Transcript();

const WAITING = {
  connecting: "Recording · connecting…",
  retrying: "Recording · reconnecting…",
  blocked: "Recording · waiting for a key",
};

let phase = "idle"; // idle → opening → recording → finishing → idle
let session = null;
let connection = "closed";
let languagesOf = ""; // the model whose languages are offered
let recordedBefore = 0; // seconds of earlier recordings: the page's clock runs on

function setPhase(next, status) {
  phase = next;
  view.showPhase(next);
  view.showStatus(status);
}

// --- recording ------------------------------------------------------------------------------------

async function start(open, { isLive, status }) {
  if (phase !== "idle") return;
  view.clearTrouble();
  view.showLoss("");
  setPhase("opening", isLive ? "Asking for the microphone…" : "Reading the file…");
  const mine = new Session({
    view,
    transcript,
    offset: recordedBefore,
    language: at("language").value,
    key: recallKey(),
    isLive,
    onLevel: (level) => meter.push(level),
    onSourceEnd: () => endSource(isLive),
    onConnection: (state) => {
      connection = state;
      if (state === "retrying") void refreshReadiness();
      if (phase === "recording") view.showStatus(WAITING[state] ?? status);
    },
    onDone: (ok) => finish(mine, ok),
  });
  session = mine;
  try {
    await mine.start(open);
  } catch (error) {
    showFailure(error);
    return;
  }
  if (session === mine) setPhase("recording", WAITING[connection] ?? status);
  else await mine.stop(); // cancelled while the browser was asking for permission
}

async function startMicrophone() {
  const options = { deviceId: at("device").value, cleanUp: at("clean").checked };
  await start((on) => Capture.open({ ...options, on }), { isLive: true, status: "Listening" });
  await refreshMicrophones(); // labels are told only after permission
}

async function startFile(file) {
  await start((on) => AudioFile.open({ file, on }), { isLive: false, status: `Transcribing ${file.name}` });
}

async function stop() {
  setPhase("finishing", "Waiting for the last words…");
  meter.rest();
  await session.stop();
}

function endSource(isLive) {
  if (phase !== "recording") return;
  if (isLive) showTrouble("mic_lost");
  void stop();
}

function finish(finished, ok) {
  if (session !== finished) return;
  session = null;
  recordedBefore += finished.captured / RATE;
  meter.rest();
  const source = finished.source;
  if (source) void source.close();
  setPhase("idle", ok ? "Done. Press Record to go on" : "Stopped");
}

function showFailure(error) {
  const code = error instanceof CaptureFailed ? error.code : "file_unreadable";
  showTrouble(code);
  view.showStatus("Ready when you are");
}

function showTrouble(code) {
  view.showTrouble({ ...adviceFor({ code }), code });
}

function toggle() {
  if (phase === "idle") void startMicrophone();
  else if (phase === "recording") void stop();
  else session.abandon();
}

// --- taking the transcript away -------------------------------------------------------------------

async function copy() {
  await navigator.clipboard.writeText(toText(transcript.finals));
  view.showStatus("Copied");
  at("copy").dataset.done = "true";
  setTimeout(() => delete at("copy").dataset.done, COPIED_MS);
}

function download(format) {
  const [write, type] = EXPORTS[format];
  const url = URL.createObjectURL(new Blob([write(transcript.finals)], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = `transcript.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000); // the download has its own reference by then
}

function clear() {
  transcript.clear();
  view.clearTranscript();
  view.showLoss("");
  if (phase === "idle") {
    recordedBefore = 0;
    view.showRecorded(0);
    meter.clear();
  }
  view.showStatus("Cleared");
  at("record").focus();
}

// --- devices, languages, readiness ----------------------------------------------------------------

async function refreshMicrophones() {
  view.setMicrophones(await listMicrophones(), recallChoice("device"));
}

async function refreshReadiness() {
  if (connection === "live") return; // the session's own ready event is fresher
  const readiness = await fetchReadiness();
  if (connection === "live") return;
  view.showBackend(readiness ?? {}, readiness !== null);
  if (readiness?.auth_required && !recallKey()) view.askForKey(true);
  if (readiness?.model && readiness.model !== languagesOf) await refreshLanguages(readiness.model);
}

async function refreshLanguages(model) {
  const languages = await fetchLanguages(recallKey());
  if (languages.length === 0) return; // asked again next time: perhaps a key was missing
  languagesOf = model;
  view.setLanguages(languages, recallChoice("language"));
}

// --- wiring ---------------------------------------------------------------------------------------

function wireControls() {
  at("record").addEventListener("click", toggle);
  at("copy").addEventListener("click", () => void copy());
  at("clear").addEventListener("click", clear);
  at("trouble-close").addEventListener("click", () => view.clearTrouble());
  for (const button of document.querySelectorAll("[data-format]")) {
    button.addEventListener("click", () => download(button.dataset.format));
  }
  at("device").addEventListener("change", () => rememberChoice("device", at("device").value));
  at("language").addEventListener("change", () => rememberChoice("language", at("language").value));
  at("clean").checked = recallChoice("clean") === "true";
  at("clean").addEventListener("change", () => rememberChoice("clean", String(at("clean").checked)));
}

function wireKeyForm() {
  at("key").addEventListener("input", () => at("key").setCustomValidity(""));
  at("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = at("key").value.trim();
    if (!KEY.test(key)) {
      at("key").setCustomValidity(adviceFor({ code: "key_malformed" }).message);
      at("key").reportValidity();
      return;
    }
    rememberKey(key);
    view.askForKey(false);
    view.clearTrouble();
    session?.useKey(key);
    at("record").focus();
  });
}

function wireFiles() {
  at("choose-file").addEventListener("click", () => at("file").click());
  at("file").addEventListener("change", () => {
    const [file] = at("file").files;
    at("file").value = "";
    if (file) void startFile(file);
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) void startFile(file);
  });
}

function wireKeyboard() {
  addEventListener("keydown", (event) => {
    const isSpace = event.code === "Space" && !event.altKey && !event.ctrlKey && !event.metaKey;
    const isAltR = event.code === "KeyR" && event.altKey && !event.ctrlKey && !event.metaKey;
    const onControl = event.target.closest?.("button, a, input, select, textarea, [contenteditable]");
    if (event.repeat || !(isAltR || (isSpace && !onControl))) return;
    event.preventDefault();
    toggle();
  });
}

wireTheme(at("theme"));
wireControls();
wireKeyForm();
wireFiles();
wireKeyboard();
view.setLanguages(LIKELY_LANGUAGES, recallChoice("language"));
setPhase("idle", "Ready when you are");
addEventListener("beforeunload", (event) => {
  if (phase === "recording" || phase === "finishing") event.preventDefault();
});
navigator.mediaDevices?.addEventListener("devicechange", () => void refreshMicrophones());
void refreshMicrophones();
void refreshReadiness();
setInterval(() => void refreshReadiness(), READINESS_EVERY_MS);
