// The gallery: only the cells that are in sight are in the page, however many there are.

const SIZES = [64, 88, 116, 152, 208];
const GAP = 6;
const HEADING = 44;
const MINOR = 24;
const SETTLE_MS = 60;

export class Gallery {
  active = null;
  chosen = new Set();
  #rows = [];
  #order = [];
  #places = new Map();
  #drawn = new Map();
  #headings = [];
  #size = 2;
  #groups = [];
  #timer = 0;
  #anchor = null;

  /**
   * @param {HTMLElement} box the element that scrolls
   * @param {HTMLElement} canvas the element inside it
   * @param {(cell: object, side: number) => string} pictureOf address of a cell's picture
   * @param {(tile: HTMLElement, cell: object) => void} dress puts classes, words and a label on a tile
   * @param {() => void} onMove called when another cell is active or others are chosen
   */
  constructor(box, canvas, pictureOf, dress, onMove) {
    Object.assign(this, { box, canvas, pictureOf, dress, onMove });
    box.addEventListener("scroll", () => this.#draw(), { passive: true });
    new ResizeObserver(() => this.show(this.#groups)).observe(box);
    canvas.addEventListener("click", (event) => this.#click(event));
  }

  /** Cells in the order in which they are shown. */
  get order() {
    return this.#order;
  }

  /** Show groups of cells: `{title, colour, parts: [{title, cells}]}`; the active cell stays where it is on the screen. */
  show(groups) {
    const before = this.#top(this.active);
    this.#groups = groups;
    this.#lay();
    if (this.active && !this.#places.has(this.active.row)) this.active = null;
    this.chosen = new Set([...this.chosen].filter((row) => this.#places.has(row)));
    const after = this.#top(this.active);
    if (before !== null && after !== null) this.box.scrollTop += after - before;
    this.#redraw();
  }

  /** Make pictures larger or smaller. */
  zoom(by) {
    const size = Math.min(SIZES.length - 1, Math.max(0, this.#size + by));
    if (size === this.#size) return;
    this.#size = size;
    this.show(this.#groups);
    this.reveal();
  }

  /** Draw tiles anew whose cells changed but not their places. */
  refresh() {
    for (const { tile, cell } of this.#drawn.values()) this.#dress(tile, cell);
  }

  /** Make a cell the active one. */
  go(cell, { extend = false, add = false, quiet = false } = {}) {
    if (!cell) return;
    const index = this.#places.get(cell.row)?.index;
    if (index === undefined) return;
    if (extend) {
      const from = this.#places.get((this.#anchor ?? this.active ?? cell).row)?.index ?? index;
      this.#anchor ??= this.active ?? cell;
      this.chosen = new Set(this.#order.slice(Math.min(from, index), Math.max(from, index) + 1).map((one) => one.row));
    } else {
      this.#anchor = null;
      if (!add) this.chosen.clear();
    }
    this.active = cell;
    if (!quiet) this.reveal();
    this.refresh();
    this.onMove();
  }

  /** Choose or leave out a cell, the others as they are. */
  toggle(cell) {
    if (!cell) return;
    if (!this.chosen.delete(cell.row)) this.chosen.add(cell.row);
    this.refresh();
    this.onMove();
  }

  /** Choose all cells of the group that holds the active one. */
  chooseGroup() {
    const group = this.#groups.find((one) => one.parts.some((part) => part.cells.includes(this.active)));
    if (!group) return;
    this.chosen = new Set(group.parts.flatMap((part) => part.cells.map((cell) => cell.row)));
    this.refresh();
    this.onMove();
  }

  /** Leave all out. */
  chooseNone() {
    this.chosen.clear();
    this.#anchor = null;
    this.refresh();
    this.onMove();
  }

  /** The cell to go to once the chosen ones have left their place: the next one of the same group that is not chosen. */
  following(leaving) {
    const start = this.#places.get(this.active?.row)?.index ?? 0;
    const stays = (cell) => cell && !leaving.has(cell.row);
    return this.#order.slice(start).find(stays) ?? this.#order.slice(0, start).reverse().find(stays) ?? null;
  }

  /** Move by cells or by rows of them. */
  move(direction, options) {
    if (!this.#order.length) return;
    const here = this.#places.get(this.active?.row);
    if (!here) return this.go(this.#order[0], options);
    if (direction === "left" || direction === "right") {
      return this.go(this.#order[here.index + (direction === "left" ? -1 : 1)], options);
    }
    if (direction === "home") return this.go(this.#order[0], options);
    if (direction === "end") return this.go(this.#order.at(-1), options);
    const step = direction === "up" || direction === "page-up" ? -1 : 1;
    const far = direction.startsWith("page") ? Math.max(1, Math.floor(this.box.clientHeight / (SIZES[this.#size] + GAP))) : 1;
    let at = here.rowNumber;
    for (let moved = 0; moved < far; ) {
      const next = this.#rows[at + step];
      if (!next) break;
      at += step;
      if (next.cells) moved += 1;
    }
    const row = this.#rows[at].cells ? this.#rows[at] : this.#rows[here.rowNumber];
    this.go(row.cells[Math.min(here.column, row.cells.length - 1)], options);
  }

  /** Scroll so that the active cell is in sight. */
  reveal() {
    const place = this.#places.get(this.active?.row);
    if (!place) return;
    const row = this.#rows[place.rowNumber];
    const room = HEADING + MINOR;
    if (row.y - room < this.box.scrollTop) this.box.scrollTop = Math.max(0, row.y - room);
    else if (row.y + row.height > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = row.y + row.height - this.box.clientHeight;
    this.#draw();
  }

  #top(cell) {
    const place = this.#places.get(cell?.row);
    return place ? this.#rows[place.rowNumber].y : null;
  }

  #lay() {
    const side = SIZES[this.#size] + GAP;
    const columns = Math.max(1, Math.floor((this.canvas.clientWidth + GAP) / side));
    this.#rows = [];
    this.#order = [];
    this.#places = new Map();
    let y = 0;
    const add = (row) => { this.#rows.push({ y, ...row }); y += row.height; };
    for (const group of this.#groups) {
      if (!group.parts.some((part) => part.cells.length)) continue;
      add({ height: HEADING, group });
      for (const part of group.parts) {
        if (!part.cells.length) continue;
        if (part.title) add({ height: MINOR, part });
        for (let start = 0; start < part.cells.length; start += columns) {
          const cells = part.cells.slice(start, start + columns);
          cells.forEach((cell, column) => this.#places.set(cell.row, { index: this.#order.length + column, rowNumber: this.#rows.length, column }));
          this.#order.push(...cells);
          add({ height: side, cells });
        }
      }
    }
    this.canvas.style.height = `${y + GAP}px`;
  }

  #redraw() {
    for (const { tile } of this.#drawn.values()) tile.remove();
    for (const heading of this.#headings) heading.remove();
    this.#drawn.clear();
    this.#headings = [];
    this.#draw();
  }

  /** Put what is in sight into the page, and take out what is not. */
  #draw() {
    const over = this.box.clientHeight / 2;
    const [from, to] = [this.box.scrollTop - over, this.box.scrollTop + this.box.clientHeight + over];
    const wanted = new Set();
    for (const heading of this.#headings) heading.remove();
    this.#headings = [];
    for (let at = this.#find(from); at < this.#rows.length && this.#rows[at].y < to; at += 1) {
      const row = this.#rows[at];
      if (row.cells) row.cells.forEach((cell, column) => { wanted.add(cell.row); this.#place(cell, row, column); });
      else this.#heading(row);
    }
    for (const [row, { tile }] of this.#drawn) {
      if (wanted.has(row)) continue;
      tile.firstChild.src = "";
      tile.remove();
      this.#drawn.delete(row);
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#load(), this.#timer ? SETTLE_MS : 0);
  }

  /** Ask for the pictures of what is still in sight. */
  #load() {
    for (const { tile, cell } of this.#drawn.values()) {
      if (!tile.firstChild.getAttribute("src")) tile.firstChild.src = this.pictureOf(cell, SIZES[this.#size]);
    }
  }

  #find(y) {
    let [low, high] = [0, this.#rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#rows[middle].y + this.#rows[middle].height < y) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #place(cell, row, column) {
    if (this.#drawn.has(cell.row)) return;
    const tile = document.createElement("div");
    const image = new Image();
    image.alt = "";
    image.decoding = "async";
    image.draggable = false;
    tile.append(image);
    tile.className = "tile";
    tile.id = `cell-${cell.row}`;
    tile.dataset.row = cell.row;
    tile.setAttribute("role", "option");
    tile.setAttribute("aria-setsize", this.#order.length);
    tile.setAttribute("aria-posinset", this.#places.get(cell.row).index + 1);
    const side = SIZES[this.#size];
    Object.assign(tile.style, { left: `${column * (side + GAP)}px`, top: `${row.y}px`, width: `${side}px`, height: `${side}px` });
    this.#drawn.set(cell.row, { tile, cell });
    this.#dress(tile, cell);
    this.canvas.append(tile);
  }

  #dress(tile, cell) {
    const active = cell === this.active;
    tile.classList.toggle("active", active);
    tile.classList.toggle("chosen", this.chosen.has(cell.row));
    tile.setAttribute("aria-selected", this.chosen.has(cell.row) || active);
    if (active) this.box.setAttribute("aria-activedescendant", tile.id);
    this.dress(tile, cell);
  }

  #heading(row) {
    const line = document.createElement("div");
    line.className = row.group ? "heading" : "heading minor";
    line.style.top = `${row.y}px`;
    line.style.height = `${row.height}px`;
    const { title, colour } = row.group ?? row.part;
    if (colour) {
      const dot = document.createElement("i");
      dot.style.background = colour;
      line.append(dot);
    }
    const cells = row.group ? row.group.parts.reduce((sum, part) => sum + part.cells.length, 0) : row.part.cells.length;
    const count = document.createElement("span");
    count.textContent = cells.toLocaleString("en");
    line.append(title, count);
    this.#headings.push(line);
    this.canvas.append(line);
  }

  #click(event) {
    const tile = event.target.closest(".tile");
    if (!tile) return;
    const { cell } = this.#drawn.get(Number(tile.dataset.row));
    this.box.focus({ preventScroll: true });
    if (event.shiftKey) return this.go(cell, { extend: true });
    if (event.ctrlKey || event.metaKey) {
      if (!this.chosen.size && this.active) this.chosen.add(this.active.row);
      this.go(cell, { add: true });
      return this.toggle(cell);
    }
    this.go(cell);
  }
}
