// The review: what is shown of which cells, and what keys and buttons do with them.

import { Detail, make, percent } from "./detail.js";
import { Gallery } from "./gallery.js";
import { Refused, Server } from "./server.js";

const $ = (id) => document.getElementById(id);
const WORDS = { "no-cell": "Not a cell", unidentified: "Unidentified" };
const FLAGS = {
  "low-confidence": "low confidence", "out-of-distribution": "unlike the training data",
  "no-cell": "no white cell was found", "several-cells": "other cells are in the picture",
};
const GREY = "#8a93a0";
const KEYS = [
  ["1 … 9", "say what the chosen cells are; the same class confirms"], ["u", "unidentified"], ["x, Delete", "not a cell"],
  ["z", "undo"], ["← ↑ → ↓, Home, End, Page", "move"], ["Shift + arrows, click", "choose several"], ["Space, Ctrl + click", "choose one more"],
  ["Ctrl + a", "choose all of the class"], ["Esc", "choose none"], ["h", "heatmap"], ["l", "cells like this one, where the run has embeddings"], ["+ −", "larger, smaller pictures"],
  ["a", "add a missed cell of the field"], ["n", "write a note"], ["s", "sign the slide off"], ["?", "this help"],
];

let run;
let detail;
let gallery;
let closest = null;
const cells = new Map();
const server = new Server(takeChanges, showState);

const desk = {
  get run() { return run; },
  get blind() { return run.reading === 2; },
  nameOf: (label) => (label < 0 ? "Not read yet" : WORDS[run.labels[label]] ?? capitalised(run.labels[label])),
  colourOf: (label) => run.colours[run.labels[label]] ?? GREY,
  keyOf: (label) => ({ unidentified: "u", "no-cell": "x" })[run.labels[label]] ?? (label < 9 ? String(label + 1) : ""),
  flagWords: (flag) => FLAGS[run.flags[flag]],
  address: (kind, row, side) => `/pictures/${kind}/${row}.jpg?v=${run.id}${side ? `&side=${side}` : ""}`,
  cellsOfImage: (cell) => [...cells.values()].filter((one) => one.slide === cell.slide && one.image === cell.image),
  usualSide() {
    const sides = [...cells.values()].filter((one) => one.box).slice(0, 500).map(({ box }) => Math.max(box[2] - box[0], box[3] - box[1]));
    return sides.sort((a, b) => a - b)[sides.length >> 1] ?? 60;
  },
  history: (cell) => server.get(`/api/cells/${cell.row}/history`),
  go: (cell) => gallery.go(cell),
  tell,
  say,
  note: (cell, note) => act("note", { cell: cell.row, note }).then((saved) => saved && tell("The note is saved.")),
  async showAlike(cell) {
    closest = { of: cell, rows: await server.get(`/api/cells/${cell.row}/alike`) };
    show();
  },
};

async function begin() {
  run = await server.get("/api/run");
  server.seen = run.last;
  $("title").textContent = run.title + (desk.blind ? ", second reading" : "");
  document.title = `${run.title}: review`;
  detail = new Detail($("detail"), desk);
  gallery = new Gallery($("gallery"), $("canvas"), (cell, side) => desk.address("cells", cell.row, 2 * side), dress, moved);
  fillChoices();
  const wanted = Number(new URLSearchParams(location.hash.slice(1)).get("slide") ?? NaN);
  if (run.slides[wanted]) $("slide").value = wanted;
  listen();
  named(run.reviewer || localStorage.getItem("leukoray-reviewer") || "");
  await load();
  showAgreement();
  if (matchMedia("(max-width: 900px)").matches) $("side").open = false;
  $("gallery").focus({ preventScroll: true });
  showState(0, "");
  server.follow();
}

async function load() {
  const slide = $("slide").value;
  const found = await server.get(`/api/cells${slide === "" ? "" : `?slide=${slide}`}`);
  cells.clear();
  const { columns } = found;
  columns.row.forEach((row, index) => {
    const model = columns.label?.[index] ?? -1;
    const probabilities = columns.probabilities?.[index];
    cells.set(row, {
      row, slide: columns.slide[index], image: columns.images[columns.image[index]], number: columns.number[index],
      box: columns.box[index], size: columns.size[index], model, label: model, flag: columns.flag?.[index] ?? 0,
      probabilities, confidence: probabilities ? Math.max(...probabilities) : 0, place: index,
    });
  });
  found.cells.forEach(takeCell);
  closest = null;
  show();
}

function takeCell(told) {
  const cell = cells.get(told.row);
  if (cell) return Object.assign(cell, told);
  if (!("box" in told) || ($("slide").value !== "" && Number($("slide").value) !== told.slide)) return null;
  const none = run.labels.indexOf("no-cell");
  cells.set(told.row, { flag: 0, confidence: 0, model: none, added: true, place: told.row, ...told });
  return cells.get(told.row);
}

function takeChanges(changes) {
  const others = new Map();
  for (const told of changes.cells) {
    const before = cells.get(told.row)?.label;
    const cell = takeCell(told);
    if (cell && cell.label !== before && told.reviewer && told.reviewer !== server.reviewer) others.set(told.reviewer, (others.get(told.reviewer) ?? 0) + 1);
  }
  Object.assign(run.slides, changes.slides);
  for (const [who, count] of others) tell(`${who} changed ${count} cell${count === 1 ? "" : "s"}.`);
  if (changes.cells.length || Object.keys(changes.slides).length) show();
}

/** Everything that is shown anew from what is known. */
function show() {
  const shown = filtered();
  gallery.show(grouped(shown));
  $("count").textContent = `${shown.length.toLocaleString("en")} cell${shown.length === 1 ? "" : "s"}${closest ? " like the one that was chosen (Esc ends it)" : ""}`;
  if (!gallery.active && gallery.order.length) gallery.go(gallery.order[0], { quiet: true });
  else moved();
  showSlide();
  showDifferential();
}

function filtered() {
  const label = $("label").value;
  const only = $("only").value;
  if (closest) return closest.rows.map((row) => cells.get(row)).filter(Boolean);
  const ways = {
    "": () => true, flagged: (cell) => cell.flag, changed: (cell) => cell.label !== cell.model, contested: (cell) => cell.contested,
    open: (cell) => !cell.said, noted: (cell) => cell.note,
  };
  const fits = only.startsWith("flag-") ? (cell) => cell.flag === Number(only.slice(5)) : ways[only];
  return [...cells.values()].filter((cell) => fits(cell) && (label === "" || cell.label === Number(label)) && !(cell.added && run.labels[cell.label] === "no-cell"));
}

function grouped(shown) {
  if (closest) return [{ title: "Most alike first", parts: [{ cells: shown }] }];
  const sorted = desk.blind ? (a, b) => a.place - b.place : (a, b) => a.confidence - b.confidence || a.row - b.row;
  const labels = desk.blind ? [-1, ...run.labels.keys()] : [...run.labels.keys()];
  return labels.map((label) => {
    const own = shown.filter((cell) => cell.label === label).sort(sorted);
    const title = desk.nameOf(label);
    const colour = label < 0 ? GREY : desk.colourOf(label);
    if (desk.blind) return { title, colour, parts: [{ cells: own }] };
    const flagged = own.filter((cell) => cell.flag && !cell.said);
    const rest = own.filter((cell) => !cell.flag || cell.said);
    const parts = flagged.length ? [{ title: "To look at", cells: flagged }, { title: "Others", cells: rest }] : [{ cells: rest }];
    return { title, colour, parts };
  });
}

function dress(tile, cell) {
  tile.classList.toggle("flagged", Boolean(cell.flag) && !cell.said && !desk.blind);
  tile.classList.toggle("pending", Boolean(cell.pending));
  const words = [desk.nameOf(cell.label)];
  if (!desk.blind) {
    if (cell.confidence) words.push(percent(cell.confidence));
    if (cell.flag) words.push(desk.flagWords(cell.flag));
    if (cell.said) words.push(`said by ${cell.reviewer}`);
    if (cell.contested) words.push("reviewers differ");
  }
  words.push(run.slides[cell.slide].name, cell.image);
  tile.setAttribute("aria-label", words.join(", "));
  const mark = desk.blind ? "" : cell.contested ? "≠" : cell.said ? "✓" : "";
  const marks = [];
  if (!desk.blind && cell.confidence) marks.push(make("b", {}, cell.confidence.toFixed(2)));
  if (mark) marks.push(make("em", { className: cell.contested ? "contested" : "" }, mark));
  tile.replaceChildren(tile.firstChild, ...marks);
}

function moved() {
  detail.show(gallery.active);
  const count = gallery.chosen.size;
  $("all").textContent = count > 1 ? `${count} chosen: none` : "Select class";
}

/** Say what the chosen cells are, or the active one. */
function say(label) {
  if (!gallery.active || label >= run.labels.length) return;
  if (detail.adding) {
    act("add", { ...detail.takeNew(), label: run.labels[label] }).then((saved) => saved && tell(`A ${desk.nameOf(label)} was added.`));
    return;
  }
  const rows = gallery.chosen.size ? [...gallery.chosen] : [gallery.active.row];
  const leaving = new Set(rows.filter((row) => cells.get(row).label !== label || (cells.get(row).flag && !cells.get(row).said)));
  const next = leaving.has(gallery.active.row) ? gallery.following(leaving) : gallery.order[gallery.order.indexOf(gallery.active) + 1];
  for (const row of rows) cells.get(row).pending = true;
  gallery.chooseNone();
  if (next) gallery.go(next);
  act("label", { cells: rows, label: run.labels[label] }, rows).then((saved) => {
    if (saved) tell(`${rows.length === 1 ? "1 cell" : `${rows.length} cells`}: ${desk.nameOf(label)}`);
  });
}

async function undo() {
  const saved = await act("undo", {});
  if (!saved) return;
  const cell = cells.get(saved.undone[0]);
  if (cell) gallery.go(cell);
  tell("Taken back.");
}

/** Save an action; say so where that is refused. Returns what changed, or null. */
async function act(name, content, rows = []) {
  if (!server.reviewer) { askName(); for (const row of rows) cells.get(row).pending = false; gallery.refresh(); return null; }
  try {
    return await server.act(name, content);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    showTrouble(error.message);
    if (error.cells.length) gallery.go(cells.get(error.cells[0]));
    server.take(await server.get(`/api/changes?after=${server.seen}`));
    return null;
  } finally {
    for (const row of rows) if (cells.has(row)) cells.get(row).pending = false;
    gallery.refresh();
  }
}

let trouble = 0;
function showTrouble(words) {
  clearTimeout(trouble);
  $("trouble").textContent = words;
  $("trouble").hidden = false;
  trouble = setTimeout(() => { $("trouble").hidden = true; }, 9000);
}

function showState(waiting, why) {
  $("saved").textContent = waiting ? `Saving ${waiting}…` : why ? "Not connected" : "Everything is saved";
  $("saved").classList.toggle("waiting", Boolean(waiting || why));
  if (why) { clearTimeout(trouble); $("trouble").textContent = why; $("trouble").hidden = false; }
  else if (/trying again|cannot be reached/.test($("trouble").textContent)) $("trouble").hidden = true;
}

function tell(words) {
  $("said").textContent = words;
}

function fillChoices() {
  const names = Object.entries(run.slides);
  const many = names.reduce((sum, [, slide]) => sum + slide.rows, 0);
  const all = names.length > 1 && many <= 100_000 ? [option("", `All ${names.length} slides`)] : [];
  $("slide").replaceChildren(...all, ...names.map(([index, slide]) => option(index, slide.name)));
  const labels = desk.blind ? [option("-1", "Not read yet")] : [];
  $("label").replaceChildren(option("", "All classes"), ...labels, ...run.labels.map((_, label) => option(label, desk.nameOf(label))));
  const flags = desk.blind ? [] : [
    option("flagged", "To look at (flagged)"), ...run.flags.map((name, flag) => (name ? option(`flag-${flag}`, `Flagged: ${FLAGS[name]}`) : null)).filter(Boolean),
    option("changed", "Changed by reviewers"), option("contested", "Reviewers differ"), option("noted", "With a note"),
  ];
  $("only").replaceChildren(option("", "All cells"), option("open", desk.blind ? "Not read yet" : "Nobody has said anything"), ...flags);
}

function option(value, words) {
  return make("option", { value: String(value) }, words);
}

function showSlide() {
  const index = $("slide").value;
  $("sign-off").hidden = desk.blind || index === "";
  for (const choice of $("slide").options) {
    const slide = run.slides[choice.value];
    if (slide) choice.textContent = slide.name + (slide.signed ? " ✓ signed" : "");
  }
  if (index === "" || desk.blind) return;
  const { signed } = run.slides[index];
  $("signed").textContent = signed ? `Signed off by ${signed.reviewer}, ${new Date(signed.at).toLocaleString("en-GB")}${signed.note ? `: ${signed.note}` : ""}` : "Not signed off.";
  $("sign").hidden = Boolean(signed);
  $("reopen").hidden = !signed;
}

function showDifferential() {
  $("differential").hidden = desk.blind;
  if (desk.blind) return;
  const index = $("slide").value;
  const slides = index === "" ? Object.values(run.slides) : [run.slides[index]];
  const sum = (name) => run.labels.map((_, label) => slides.reduce((total, slide) => total + slide[name][label], 0));
  const [now, model] = [sum("counts"), sum("by_model")];
  const apart = run.labels.length - 2;
  const total = (counts) => counts.slice(0, apart).reduce((one, other) => one + other, 0);
  const body = make("tbody");
  run.labels.forEach((_, label) => {
    const share = (counts) => (label < apart ? (total(counts) ? `${((100 * counts[label]) / total(counts)).toFixed(1)} %` : "–") : "");
    const line = make("tr", { className: now[label] === model[label] ? "" : "moved" },
      make("th", { scope: "row" }, make("i", { className: "dot", style: { background: desk.colourOf(label) } }), ` ${desk.nameOf(label)}`),
      make("td", {}, model[label], make("br"), make("span", { className: "soft" }, share(model))),
      make("td", {}, now[label], make("br"), make("span", { className: "soft" }, share(now))));
    line.classList.toggle("apart", label === apart);
    body.append(line);
  });
  const head = make("thead", {}, make("tr", {}, make("th", { scope: "col" }, ""), make("th", { scope: "col" }, "Model"), make("th", { scope: "col" }, "Reviewed")));
  const changed = slides.reduce((count, slide) => count + slide.changed, 0);
  const said = slides.reduce((count, slide) => count + slide.said, 0);
  $("differential").replaceChildren(
    make("table", { className: "counts" }, make("caption", {}, "Differential"), head, body),
    make("p", { className: "soft" }, `${said} looked at, ${changed} changed. Shares are of the identified cells.`),
  );
}

async function showAgreement() {
  if (desk.blind) return;
  const { cells: judged, same, kappa } = await server.get("/api/agreement");
  $("agreement").hidden = !judged;
  if (!judged) return;
  const words = `${judged} cells were read twice: the same on ${same.toFixed(1)} %${kappa === null ? "" : `, Cohen’s kappa ${kappa.toFixed(2)}`}.`;
  $("agreement").replaceChildren(make("h3", {}, "Second reading"), make("p", { className: "soft" }, words));
}

function named(name) {
  server.reviewer = name;
  $("who").textContent = name ? `Reviewer: ${name}` : "Your name…";
  $("who").disabled = Boolean(run.reviewer);
  if (!name) askName();
}

function askName() {
  $("name").value = server.reviewer;
  $("name-dialog").showModal();
}

async function askToSign(again) {
  const index = Number($("slide").value);
  if ($("slide").value === "" || desk.blind) { showTrouble("Choose one slide first; each is signed by itself."); return; }
  const { name, signed } = run.slides[index];
  if (Boolean(signed) !== again) return;
  $("sign-title").textContent = again ? `Open ${name} again` : `Sign off ${name}`;
  $("sign-words").textContent = again ? "Say why; the sign-off stays in the log." : `As ${server.reviewer || "…"}: you have seen the cells of this slide, and the differential is right. Nothing of it can be changed until it is opened again.`;
  $("sign-note").value = "";
  $("sign-note").required = again;
  $("sign-ok").textContent = again ? "Open again" : "Sign off";
  $("sign-dialog").returnValue = "";
  $("sign-dialog").showModal();
  await new Promise((closed) => $("sign-dialog").addEventListener("close", closed, { once: true }));
  if ($("sign-dialog").returnValue !== "ok") return;
  const saved = await act(again ? "reopen" : "sign", { slide: index, note: $("sign-note").value });
  if (saved) tell(again ? `${name} is open again.` : `${name} is signed off.`);
}

function listen() {
  $("slide").addEventListener("change", () => { history.replaceState(null, "", $("slide").value === "" ? "#" : `#slide=${$("slide").value}`); load(); });
  for (const id of ["label", "only"]) $(id).addEventListener("change", () => { closest = null; gallery.chooseNone(); show(); });
  $("undo").addEventListener("click", undo);
  $("help").addEventListener("click", () => $("help-dialog").showModal());
  $("smaller").addEventListener("click", () => gallery.zoom(-1));
  $("larger").addEventListener("click", () => gallery.zoom(1));
  $("all").addEventListener("click", () => (gallery.chosen.size > 1 ? gallery.chooseNone() : gallery.chooseGroup()));
  $("who").addEventListener("click", askName);
  $("sign").addEventListener("click", () => askToSign(false));
  $("reopen").addEventListener("click", () => askToSign(true));
  $("name-dialog").addEventListener("close", () => {
    const name = $("name").value.trim().replace(/\s+/g, " ");
    if (!name) return;
    localStorage.setItem("leukoray-reviewer", name);
    named(name);
  });
  $("keys").tBodies[0].replaceChildren(...KEYS.map(([key, what]) => make("tr", {}, make("th", { scope: "row" }, make("kbd", {}, key)), make("td", {}, what))));
  document.addEventListener("keydown", pressed);
  window.addEventListener("beforeunload", (event) => { if ($("saved").classList.contains("waiting") && $("saved").textContent.startsWith("Saving")) event.preventDefault(); });
}

const MOVES = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", Home: "home", End: "end", PageUp: "page-up", PageDown: "page-down" };
const FRAME = new Set(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "+", "-"]);

function pressed(event) {
  const { key, target } = event;
  if (event.altKey || document.querySelector("dialog[open]")) return;
  if (target.matches("input, textarea, select")) { if (key === "Escape") $("gallery").focus({ preventScroll: true }); return; }
  const done = event.ctrlKey || event.metaKey ? withControl(key) : alone(event);
  if (done) event.preventDefault();
}

function withControl(key) {
  if (key === "a") gallery.chooseGroup();
  else if (key === "z") undo();
  else return false;
  return true;
}

function alone(event) {
  const { key, shiftKey, target } = event;
  const onButton = target.matches("button, summary");
  if (detail.adding && FRAME.has(key)) detail.moveNew(key, shiftKey);
  else if (MOVES[key]) gallery.move(MOVES[key], { extend: shiftKey });
  else if (/^[1-9]$/.test(key) && Number(key) <= run.labels.length - 2) say(Number(key) - 1);
  else if (key === "u") say(run.labels.indexOf("unidentified"));
  else if (key === "x" || key === "Delete") say(run.labels.indexOf("no-cell"));
  else if (key === "z") undo();
  else if (key === "h") detail.toggleHeat();
  else if (key === "l" && run.embeddings && gallery.active) desk.showAlike(gallery.active);
  else if (key === "a") { if (run.fields) detail.toggleAdding(); }
  else if (key === "n") document.getElementById("note")?.focus();
  else if (key === "s") askToSign(false);
  else if (key === "?") $("help-dialog").showModal();
  else if (key === "+" || key === "=") gallery.zoom(1);
  else if (key === "-") gallery.zoom(-1);
  else if (key === " " && !onButton) gallery.toggle(gallery.active);
  else if (key === "Escape") escape();
  else return false;
  return true;
}

function escape() {
  if (detail.adding) detail.toggleAdding();
  else if (closest) { closest = null; show(); }
  else gallery.chooseNone();
}

function capitalised(name) {
  return name[0] + name.slice(1).toLowerCase().replaceAll("_", " ");
}

begin().catch((error) => showState(0, error instanceof Refused ? error.message : "The server cannot be reached."));
