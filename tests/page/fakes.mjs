// A clock that is moved by hand, and a server made of scripted sockets.

export class FakeTimers {
  #now = 0;
  #next = 1;
  #pending = new Map();

  now = () => this.#now;

  set = (run, milliseconds) => {
    this.#pending.set(this.#next, { run, at: this.#now + milliseconds });
    return this.#next++;
  };

  clear = (id) => this.#pending.delete(id);

  get count() {
    return this.#pending.size;
  }

  async advance(milliseconds) {
    const until = this.#now + milliseconds;
    for (;;) {
      await settled();
      const due = [...this.#pending].filter(([, timer]) => timer.at <= until).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      this.#pending.delete(due[0]);
      this.#now = due[1].at;
      due[1].run();
    }
    this.#now = until;
  }
}

/** Lets pending promise reactions run. */
export async function settled() {
  for (let n = 0; n < 5; n += 1) await null;
}

export class FakeSocket {
  bufferedAmount = 0;
  messages = [];
  closed = false;

  constructor(protocols) {
    this.protocols = protocols;
  }

  send(data) {
    if (this.closed) throw new Error("sent on a closed socket");
    this.messages.push(typeof data === "string" ? JSON.parse(data) : data.slice());
  }

  close() {
    this.closed = true;
  }

  open() {
    this.onopen({});
  }

  say(event) {
    this.onmessage({ data: JSON.stringify(event) });
  }

  drop(code = 1006) {
    this.closed = true;
    this.onclose({ code });
  }

  get commands() {
    return this.messages.filter((message) => message.type);
  }

  /** All samples received, in order. */
  get audio() {
    return this.messages.filter((message) => !message.type).flatMap((pcm) => [...pcm]);
  }
}
