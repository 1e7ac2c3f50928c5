// What to tell a person when something goes wrong: our words for what happened here, and what to do.
// The server's own message, when there is one, is shown in place of the first sentence.

const ADVICE = {
  mic_denied: ["The microphone is not allowed.", "Allow it in the browser’s address bar, then press Record."],
  mic_missing: ["No microphone was found.", "Plug one in or choose another, then press Record."],
  mic_busy: ["The microphone could not be opened.", "Close other programs that use it, then press Record."],
  mic_lost: ["The microphone went away.", "What it recorded has been sent. Choose another and press Record."],
  mic_failed: ["The microphone could not be started.", "Reload the page and try again."],
  mic_insecure: ["Browsers allow microphones only on secure pages.", "Open this page over https, or on localhost."],
  browser_too_old: ["This browser cannot record audio for transcription.", "Use a current Chrome, Edge, Firefox or Safari."],
  file_unreadable: ["This file’s audio could not be read.", "Try WAV, MP3, M4A, Ogg or FLAC."],
  unreachable: ["The server cannot be reached.", "Your recording is kept, and sent when the connection is back."],
  not_ready: ["The recogniser is not ready yet.", "Your recording is kept, and sent when it is."],
  not_opened: ["The server did not open the stream.", "If it needs an API key, enter it below."],
  unauthorized: ["The server needs an API key.", "Enter it below."],
  origin_refused: ["The server does not accept this page’s address.", "Ask its operator to allow it."],
  at_capacity: ["All places are taken.", "Your recording is kept, and sent when one is free."],
  going_away: ["The server is restarting.", "The recording goes on, and continues on its successor."],
  lag_exceeded: ["Recognition fell too far behind.", "It is starting again from your latest words."],
  idle_timeout: ["The stream was idle for too long.", "It is being opened again."],
  language_unsupported: ["The recogniser does not know this language.", "Choose another and press Record."],
  asr_disabled: ["Recognition is switched off.", "Ask the server’s operator."],
  no_answer: ["The server stopped answering.", "What was recognised so far is kept below."],
  key_malformed: ["This key has characters a key cannot have.", "Check it and enter it again."],
};

const FALLBACK = {
  retryable: ["Something went wrong on the way.", "The recording goes on while this is tried again."],
  fatal: ["Something went wrong.", "What was recognised so far is kept. Press Record to try again."],
};

/** {message, action} for a coded trouble; `message` is the server's, when it sent one. */
export function adviceFor({ code, message, fatal = true }) {
  const [said, action] = ADVICE[code] ?? (fatal ? FALLBACK.fatal : FALLBACK.retryable);
  return { message: message || said, action };
}
