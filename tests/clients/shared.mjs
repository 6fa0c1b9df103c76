// What every client of these tests needs: the messages it shows, the server's plain routes, and one line per scenario.

const LIMIT_MS = 40_000;

/** The state that a page keeps for a chat: `shown` wakes whoever waits for something to be shown. */
export class ShownState {
  #status = 'ready';
  #waiting = new Set();
  messages = [];
  error = undefined;

  constructor(messages = []) {
    this.messages = messages;
  }

  get status() {
    return this.#status;
  }

  set status(status) {
    this.#status = status;
    this.#changed();
  }

  pushMessage(message) {
    this.messages = [...this.messages, this.snapshot(message)];
    this.#changed();
  }

  popMessage() {
    this.messages = this.messages.slice(0, -1);
  }

  replaceMessage(index, message) {
    this.messages = this.messages.with(index, this.snapshot(message));
    this.#changed();
  }

  snapshot(thing) {
    return structuredClone(thing);
  }

  /** Waits until what is shown fits. */
  until(fits) {
    if (fits(this)) return Promise.resolve();
    return new Promise(resolve => this.#waiting.add({ fits, resolve }));
  }

  #changed() {
    for (const one of this.#waiting) {
      if (one.fits(this)) {
        this.#waiting.delete(one);
        one.resolve();
      }
    }
  }
}

/** The answer's text as it is shown. */
export function textOf(state) {
  const last = state.messages.at(-1);
  if (last?.role !== 'assistant') return '';
  return last.parts.filter(part => part.type === 'text').map(part => part.text).join('|');
}

/** A chat of the SDK whose state is ours; `data` is what `onData` was told. */
export function chatClass(AbstractChat) {
  return class extends AbstractChat {
    constructor({ messages, ...options }) {
      const state = new ShownState(messages);
      const data = [];
      super({ ...options, state, onData: part => data.push(structuredClone(part)) });
      this.shown = state;
      this.data = data;
    }

    /** What a person sees now, and whether the client thinks all is well. */
    report() {
      const { status, error, messages } = this.shown;
      return { chat: this.id, status, error: error?.message ?? null, messages, data: this.data };
    }
  };
}

/** The server's routes that no client of the SDK calls. */
export class Server {
  constructor(base) {
    this.base = base;
  }

  async #json(path, init) {
    const response = await fetch(this.base + path, init);
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
    return response.json();
  }

  /** The conversation as a page that is opened now gets it. */
  conversation(id) {
    return this.#json(`/api/chat/${id}`);
  }

  /** Lets the scenario that waits at a gate go on. */
  async open(gate) {
    const message = { id: `open-${gate}`, role: 'user', parts: [{ type: 'text', text: `open ${gate}` }] };
    const response = await fetch(`${this.base}/api/chat?ui=7`, {
      method: 'POST',
      body: JSON.stringify({ id: `gatekeeper-${gate}`, messages: [message] }),
    });
    if (!(await response.text()).includes('opened')) throw new Error(`the gate ${gate} did not open`);
  }

  /** Asks the server to stop the turn of a conversation. */
  stop(id) {
    return this.#json(`/api/chat/${id}/stop`, { method: 'POST', body: '{}' });
  }
}

/** Runs the scenarios in turn and prints one line of JSON for each. */
export async function runAll(scenarios) {
  let running = '';
  const limit = setTimeout(() => {
    console.error(`the scenario ${running} did not end`);
    process.exit(1);
  }, LIMIT_MS);
  for (const [name, scenario] of Object.entries(scenarios)) {
    running = name;
    const result = await scenario();
    process.stdout.write(`${JSON.stringify({ name, ...result })}\n`);
  }
  clearTimeout(limit);
}
