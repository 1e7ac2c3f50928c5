// The gateway's addresses, its readiness, and why a WebSocket would not open.
// Browsers hide the answer to a refused upgrade, so the same address is asked again over plain HTTP.

const ROOT = new URL("..", import.meta.url);
const PROBE_DEADLINE_MS = 5000;

const STREAM = new URL("v1/audio/transcriptions/stream", ROOT);

/** Opens the native protocol's WebSocket. */
export function openSocket(protocols) {
  const url = new URL(STREAM);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return new WebSocket(url, protocols);
}

/** What GET /ready says, whatever its status; null when nothing answers. */
export async function fetchReadiness() {
  const response = await probe(new URL("ready", ROOT));
  return response ? bodyOf(response) : null;
}

/** The language tags the served models know; none when the gateway does not tell. */
export async function fetchLanguages(key) {
  const response = await probe(new URL("v1/models", ROOT), authorization(key));
  const { data } = response?.ok ? await bodyOf(response) : {};
  if (!Array.isArray(data)) return [];
  return [...new Set(data.flatMap((model) => model.capabilities?.languages ?? []))].sort();
}

/** Why no stream opens: {code, message?, retryAfterS?}. */
export async function diagnose(key) {
  const response = await probe(STREAM, authorization(key));
  if (response === null) return { code: "unreachable" };
  const { error } = await bodyOf(response);
  // Without a key the server's message is about headers; with one it says what is wrong with it.
  if (response.status === 401) return { code: "unauthorized", message: key ? error?.message : undefined };
  if (response.status === 403) return { code: error?.code ?? "origin_refused", message: error?.message };
  if (response.status === 429 || response.status >= 500) {
    return { code: error?.code ?? "not_ready", message: error?.message, retryAfterS: retryAfter(response) };
  }
  return { code: "not_opened" };
}

function authorization(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function probe(url, headers = {}) {
  try {
    return await fetch(url, { headers, cache: "no-store", signal: AbortSignal.timeout(PROBE_DEADLINE_MS) });
  } catch {
    return null; // refused, unresolvable, timed out: for the user all the same
  }
}

async function bodyOf(response) {
  try {
    const body = await response.json();
    return typeof body === "object" && body !== null ? body : {};
  } catch {
    return {};
  }
}

function retryAfter(response) {
  const seconds = Number(response.headers.get("Retry-After"));
  return Number.isFinite(seconds) ? seconds : 0;
}
