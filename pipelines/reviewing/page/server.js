// Talking to the server: what is asked, what is saved, and what to do while it cannot be reached.

const RETRY_MS = 2000;
const POLL_MS = 1000;

/** An answer that is an error, with the server's code and sentence. */
export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `The server answered ${status}.`);
    this.status = status;
    this.code = error?.code ?? "";
    this.cells = error?.cells ?? [];
  }
}

export class Server {
  /** The newest entry of the log that is shown. */
  seen = 0;
  reviewer = "";
  #waiting = [];
  #working = false;

  /**
   * @param {(changes: object) => void} onChanges called with what changed, whoever changed it
   * @param {(waiting: number, trouble: string) => void} onState called when something is saved or cannot be
   */
  constructor(onChanges, onState) {
    this.onChanges = onChanges;
    this.onState = onState;
  }

  async get(path) {
    return read(await fetch(path));
  }

  /** Save an action; those before it come first. Resolves once it is saved, rejects with `Refused`. */
  act(name, content) {
    return new Promise((saved, refused) => {
      const body = { reviewer: this.reviewer, request: newName(), seen: this.seen, ...content };
      this.#waiting.push({ name, body, saved, refused });
      this.#work();
    });
  }

  async #work() {
    if (this.#working) return;
    this.#working = true;
    while (this.#waiting.length) {
      this.onState(this.#waiting.length, "");
      await this.#save(this.#waiting[0]);
    }
    this.#working = false;
    this.onState(0, "");
  }

  async #save(action) {
    for (;;) {
      try {
        const answer = await fetch(`/api/${action.name}`, {
          method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(action.body),
        });
        const changes = await read(answer);
        this.#waiting.shift();
        this.take(changes);
        return action.saved(changes);
      } catch (error) {
        const passing = !(error instanceof Refused) || error.status >= 500;
        if (!passing) {
          this.#waiting.shift();
          return action.refused(error);
        }
        const why = error instanceof Refused ? error.message : "The server cannot be reached.";
        this.onState(this.#waiting.length, `${why} ${this.#waiting.length === 1 ? "A change is" : "Changes are"} not saved yet; trying again.`);
        await sleep(RETRY_MS);
      }
    }
  }

  /** Take what changed, unless it is older than what is shown. */
  take(changes) {
    if (changes.last < this.seen) return;
    this.seen = changes.last;
    this.onChanges(changes);
  }

  /** Ask again and again what others changed. */
  async follow() {
    let lost = false;
    for (;;) {
      await sleep(POLL_MS);
      if (document.hidden || this.#working) continue;
      const before = this.seen;
      try {
        const changes = await this.get(`/api/changes?after=${before}`);
        if (lost) this.onState(0, "");
        lost = false;
        if (this.seen === before && changes.last > before) this.take(changes);
      } catch (error) {
        lost = true;
        if (!this.#working) this.onState(0, error instanceof Refused ? error.message : "The server cannot be reached. Start it again with the same command, and open the address that it prints.");
      }
    }
  }
}

async function read(answer) {
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, content.error);
  return content;
}

function newName() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function sleep(ms) {
  return new Promise((done) => setTimeout(done, ms));
}
