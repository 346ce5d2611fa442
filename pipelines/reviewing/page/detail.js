// What is known of the active cell: pictures, probabilities, who said what, and buttons for all that keys do.

const BIG = 400;

/** Make an element. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "style") Object.assign(element.style, value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export class Detail {
  heat = false;
  #cell = null;
  #field = null;
  #new = null;

  /**
   * @param {HTMLElement} box the panel
   * @param {object} desk what it asks and does: see review.js
   */
  constructor(box, desk) {
    this.box = box;
    this.desk = desk;
  }

  get cell() {
    return this.#cell;
  }

  /** Whether a missed cell is being drawn. */
  get adding() {
    return this.#new !== null;
  }

  /** Show a cell; nothing where there is none. */
  show(cell) {
    if (cell !== this.#cell) this.#new = null;
    this.#cell = cell;
    this.box.hidden = !cell;
    if (!cell) return;
    const written = this.box.querySelector("textarea");
    const typing = written && document.activeElement === written && Number(written.dataset.row) === cell.row ? written : null;
    this.box.replaceChildren(
      make("div", { className: "top" }, this.#picture(), make("div", {}, this.#words(), this.#tools())),
      this.#labels(),
      ...(this.desk.blind ? [] : [this.#bars()]),
      this.#fieldOf(cell),
      typing?.parentElement ?? this.#note(),
      make("div", { id: "history" }),
    );
    typing?.focus();
    this.#history(cell);
  }

  /** Show where the network looked, or the cell as it is. */
  toggleHeat() {
    if (!this.desk.run.heatmaps || !this.#cell) return;
    this.heat = !this.heat;
    this.show(this.#cell);
  }

  /** Begin or end drawing a missed cell. */
  toggleAdding() {
    if (this.desk.blind || !this.#cell) return;
    if (this.#new) this.#new = null;
    else {
      const { box, size } = this.#cell;
      const side = this.desk.usualSide();
      const at = box ? [box[0] + side, box[1]] : [size[0] / 2 - side / 2, size[1] / 2 - side / 2];
      this.#new = inside([at[0], at[1], at[0] + side, at[1] + side], size);
      this.desk.tell("Drag over the missed cell, or move the frame with the arrows; + and - change its size. Then say what it is. Escape ends it.");
    }
    this.show(this.#cell);
  }

  /** Move or resize the frame of a missed cell. */
  moveNew(key, fine) {
    const [left, top, right, bottom] = this.#new;
    const step = (right - left) * (fine ? 0.05 : 0.25);
    const by = { ArrowLeft: [-step, 0, -step, 0], ArrowRight: [step, 0, step, 0], ArrowUp: [0, -step, 0, -step], ArrowDown: [0, step, 0, step],
      "+": [-step / 2, -step / 2, step / 2, step / 2], "-": [step / 2, step / 2, -step / 2, -step / 2] }[key];
    this.#setNew([left + by[0], top + by[1], right + by[2], bottom + by[3]]);
  }

  /** Take the frame that was drawn. */
  takeNew() {
    const cell = this.#cell;
    const content = { slide: cell.slide, image: cell.image, box: this.#new };
    this.#new = null;
    this.show(cell);
    return content;
  }

  #picture() {
    const { row } = this.#cell;
    const heat = this.heat && this.desk.run.heatmaps && !this.#cell.added;
    const source = heat ? this.desk.address("heatmaps", row) : this.desk.address("cells", row, BIG);
    const image = make("img", { className: "big", src: source, alt: heat ? "Where the network looked" : "The cell" });
    image.addEventListener("error", () => image.replaceWith(make("p", { className: "soft" }, heat ? "There is no heatmap of this cell." : "The picture cannot be read.")));
    return image;
  }

  #words() {
    const { desk } = this;
    const cell = this.#cell;
    const words = make("p", { className: "words" }, make("strong", {}, desk.nameOf(cell.label)));
    if (!desk.blind) {
      if (cell.said) words.append(` by ${cell.reviewer}`);
      words.append(make("br"), cell.added ? "Added by a reviewer" : `Model: ${this.#modelWords(cell)}`);
      if (cell.flag) words.append(make("br"), make("span", { className: "flag" }, `⚑ ${desk.flagWords(cell.flag)}`));
      if (cell.contested) words.append(make("br"), make("span", { className: "flag" }, "Reviewers differ"));
    }
    words.append(make("br"), make("span", { className: "soft" }, `${desk.run.slides[cell.slide].name} / ${cell.image}${cell.number ? `, cell ${cell.number}` : ""}`));
    return words;
  }

  #modelWords(cell) {
    const name = this.desk.nameOf(cell.model);
    if (!cell.confidence) return name;
    const nearest = this.desk.nameOf(cell.probabilities.indexOf(cell.confidence));
    return nearest === name ? `${name}, ${percent(cell.confidence)}` : `${name}; most like ${nearest}, ${percent(cell.confidence)}`;
  }

  #tools() {
    const tools = make("div", { className: "row" });
    if (this.desk.run.heatmaps && !this.#cell.added) tools.append(this.#button(this.heat ? "Cell" : "Heatmap", "h", () => this.toggleHeat()));
    if (this.desk.run.embeddings) tools.append(this.#button("Cells like this", "l", () => this.desk.showAlike(this.#cell)));
    return tools;
  }

  #button(words, key, action, properties = {}) {
    const button = make("button", { type: "button", ...properties }, words, " ", make("kbd", { ariaHidden: "true" }, key));
    button.addEventListener("click", action);
    return button;
  }

  #labels() {
    const group = make("div", { className: "labels", role: "group", ariaLabel: "What it is" });
    const locked = Boolean(this.desk.run.slides[this.#cell.slide].signed);
    this.desk.run.labels.forEach((_, number) => {
      const button = this.#button(this.desk.nameOf(number), this.desk.keyOf(number), () => this.desk.say(number), { disabled: locked });
      button.prepend(make("i", { className: "dot", style: { background: this.desk.colourOf(number) } }));
      button.setAttribute("aria-pressed", this.#cell.label === number && !this.adding);
      group.append(button);
    });
    return group;
  }

  #bars() {
    const body = make("tbody");
    this.desk.run.classes.forEach((name, number) => {
      const value = this.#cell.probabilities?.[number] ?? 0;
      const meter = make("meter", { min: 0, max: 1, value, ariaLabel: name });
      body.append(make("tr", {}, make("th", { scope: "row" }, this.desk.nameOf(number)), make("td", { className: "wide" }, meter), make("td", {}, percent(value))));
    });
    return make("table", { className: "bars", hidden: !this.#cell.probabilities }, make("caption", { className: "unseen" }, "The model's probabilities"), body);
  }

  #fieldOf(cell) {
    const field = make("div", { className: "field" });
    const image = make("img", { src: this.desk.address("fields", cell.row), alt: `All of ${cell.image}`, draggable: false });
    image.addEventListener("error", () => field.replaceWith(make("p", { className: "soft" }, "The image is not in its old place; small pictures of the run are shown (--slides says where the slides are).")));
    field.append(image);
    const part = make("section", { ariaLabel: "The image" }, field);
    for (const other of this.desk.cellsOfImage(cell)) if (other.box) field.append(this.#boxOf(other, cell));
    this.#field = field;
    if (this.desk.run.fields && !this.desk.blind) {
      part.append(make("div", { className: "row" }, this.#button(this.adding ? "Do not add" : "Add a missed cell", "a", () => this.toggleAdding(), { disabled: Boolean(this.desk.run.slides[cell.slide].signed) })));
      field.addEventListener("pointerdown", (event) => this.#drag(event));
    }
    if (this.#new) {
      field.classList.add("adding");
      field.append(lay(make("div", { className: "new" }), this.#new, cell.size));
    }
    return part;
  }

  #boxOf(other, cell) {
    const button = make("button", { type: "button", title: `${other.number}: ${this.desk.nameOf(other.label)}` });
    button.classList.toggle("flagged", Boolean(other.flag) && !this.desk.blind);
    button.classList.toggle("none", this.desk.run.labels[other.label] === "no-cell");
    button.setAttribute("aria-label", `Cell ${other.number}: ${this.desk.nameOf(other.label)}`);
    button.setAttribute("aria-pressed", other === cell);
    button.addEventListener("click", () => { if (!this.adding) this.desk.go(other); });
    return lay(button, other.box, other.size);
  }

  #drag(event) {
    if (!this.adding) return;
    event.preventDefault();
    const frame = this.#field.getBoundingClientRect();
    const { size } = this.#cell;
    const at = (one) => [((one.clientX - frame.left) / frame.width) * size[0], ((one.clientY - frame.top) / frame.height) * size[1]];
    const start = at(event);
    const move = (one) => {
      const end = at(one);
      const far = Math.abs(end[0] - start[0]) > 4 && Math.abs(end[1] - start[1]) > 4;
      const half = this.desk.usualSide() / 2;
      this.#setNew(far ? [Math.min(start[0], end[0]), Math.min(start[1], end[1]), Math.max(start[0], end[0]), Math.max(start[1], end[1])]
        : [start[0] - half, start[1] - half, start[0] + half, start[1] + half]);
    };
    const stop = () => { window.removeEventListener("pointermove", move); window.removeEventListener("pointerup", stop); };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", stop);
    move(event);
  }

  #setNew(box) {
    const { size } = this.#cell;
    if (box[2] - box[0] < 4 || box[3] - box[1] < 4) return;
    this.#new = inside(box, size);
    lay(this.#field.querySelector(".new"), this.#new, size);
  }

  #note() {
    const cell = this.#cell;
    const text = make("textarea", { id: "note", rows: 2, maxLength: 2000, value: cell.note ?? "" });
    text.dataset.row = cell.row;
    const save = make("button", { type: "button" }, "Save note");
    save.addEventListener("click", () => this.desk.note(cell, text.value));
    return make("div", { hidden: this.desk.blind }, make("h3", {}, make("label", { htmlFor: "note" }, "Note")), text, make("div", { className: "row" }, save));
  }

  async #history(cell) {
    if (!cell.said && !cell.note && !cell.last) return;
    const entries = await this.desk.history(cell).catch(() => []);
    if (cell !== this.#cell || !entries.length) return;
    const list = make("ul", { className: "history" }, ...entries.map((entry) => make("li", {}, this.#sentence(entry))));
    this.box.querySelector("#history").replaceChildren(make("h3", {}, "What was said"), list);
  }

  #sentence({ at, reviewer, action, before, after, note }) {
    const when = new Date(at).toLocaleString("en-GB", { dateStyle: "short", timeStyle: "short" });
    const name = (label) => this.desk.nameOf(this.desk.run.labels.indexOf(label));
    const what = { label: before === after ? `confirmed ${name(after)}` : `${before ? `${name(before)} → ` : ""}${name(after)}`,
      add: `added a ${name(after)}`, undo: `took it back: ${after ? name(after) : "not read"}`, note: `“${note}”` }[action];
    return `${when}, ${reviewer}: ${what}`;
  }
}

/** Lay an element over a part of a picture. */
function lay(element, box, size) {
  const share = (value, of) => `${(100 * value) / of}%`;
  Object.assign(element.style, { left: share(box[0], size[0]), top: share(box[1], size[1]), width: share(box[2] - box[0], size[0]), height: share(box[3] - box[1], size[1]) });
  return element;
}

function inside([left, top, right, bottom], [width, height]) {
  const [across, down] = [Math.min(right - left, width), Math.min(bottom - top, height)];
  const x = Math.min(Math.max(0, left), width - across);
  const y = Math.min(Math.max(0, top), height - down);
  return [x, y, x + across, y + down];
}

export function percent(value) {
  return `${(100 * value).toFixed(1)} %`;
}
