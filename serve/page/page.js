"use strict";

const AT_ONCE = 2;
const RETRIES = 6;
const SHORT = 12;
const $ = (id) => document.getElementById(id);
const results = [];
const waiting = [];
let working = 0;
let batch = 0;
let key = "";

/** Fetch with the key, where one is needed. */
function ask(path, options = {}) {
  const headers = { ...(options.headers ?? {}), ...(key ? { "X-API-Key": key } : {}) };
  return fetch(path, { ...options, headers });
}

async function showBundle() {
  const answer = await ask("/v1/model").catch(() => null);
  if (answer?.status === 401) askForKey();
  if (!answer?.ok) return;
  const model = await answer.json();
  $("bundle").textContent = `${model.name}, ${model.bundle.slice(0, SHORT)}, knows ${model.class_names.join(", ")}`;
}

function askForKey() {
  if (!$("key-form").hidden) return;
  $("key-form").hidden = false;
  $("key").focus();
}

function add(files) {
  const chosen = [...files].filter((file) => file.size > 0 || file.type.startsWith("image/") || file.name);
  for (const file of chosen) {
    const card = $("card").content.firstElementChild.cloneNode(true);
    card.querySelector("figcaption").textContent = file.name;
    card.querySelector("h2").textContent = "…";
    card.querySelector(".photo").remove();
    card.querySelector(".heat").remove();
    $("results").append(card);
    waiting.push({ file, card, attempt: 0, batch, cells: document.querySelector("[name=cells]:checked").value });
  }
  $("tools").hidden = $("results").children.length === 0;
  work();
}

function work() {
  while (working < AT_ONCE && waiting.length && $("key-form").hidden) {
    working += 1;
    classify(waiting.shift()).finally(() => { working -= 1; say(); work(); });
  }
  say();
}

async function classify(job) {
  let answer;
  try {
    answer = await ask(`/v1/classify?gradcam=layers&cells=${job.cells}`, {
      method: "POST", body: job.file, headers: { "Content-Type": "application/octet-stream" },
    });
  } catch {
    return fail(job, "The service cannot be reached.");
  }
  if (job.batch !== batch) return;
  if (answer.status === 401) { waiting.unshift(job); askForKey(); return; }
  if ((answer.status === 429 || answer.status === 503) && job.attempt < RETRIES) {
    job.attempt += 1;
    const seconds = Number(answer.headers.get("Retry-After")) || 1;
    await new Promise((done) => setTimeout(done, 1000 * seconds));
    if (job.batch === batch) waiting.push(job);
    return;
  }
  const content = await answer.json().catch(() => ({}));
  if (job.batch !== batch) return;
  if (answer.ok) show(job, content);
  else fail(job, content.error?.message ?? `The service answered ${answer.status}.`);
}

function show(job, found) {
  if (found.cells) showField(job, found);
  else showCell(job, found);
  job.card.classList.add("done");
}

function picture(name, className, source) {
  const image = new Image();
  image.className = className;
  image.alt = name;
  if (!name) image.setAttribute("aria-hidden", "true");
  image.src = source;
  return image;
}

function showCell({ file, card }, found) {
  const name = `${file.name}: ${found.label}, ${percent(found.confidence)}`;
  const photo = picture(name, "photo", `data:image/jpeg;base64,${found.gradcam.picture_jpeg}`);
  card.querySelector(".picture").replaceChildren(photo, heatmap(found));
  const evidence = found.gradcam.evidence ? "" : " · no evidence: nothing in the image speaks for this class";
  card.querySelector("figcaption").textContent = `${file.name} · ${found.width} × ${found.height}${evidence}`;
  describe(card, found, found.bundle);
  results.push({ file: file.name, number: found.cell ? 1 : 0, ...found });
}

function heatmap(found) {
  return picture("", "heat", `data:image/png;base64,${found.gradcam.heatmap_png}`);
}

function describe(card, found, bundle) {
  const title = card.querySelector("h2");
  title.textContent = `${found.label} `;
  const sure = document.createElement("small");
  sure.textContent = percent(found.confidence);
  title.append(sure);
  card.querySelector(".evidence").hidden = found.gradcam.evidence;
  const flag = card.querySelector(".flag");
  flag.hidden = !found.flag;
  flag.textContent = found.flag_reason;
  card.querySelector("tbody").replaceChildren(...Object.entries(found.probabilities).map(row));
  card.querySelector(".made").textContent = `bundle ${bundle.slice(0, SHORT)} · out-of-distribution score ${found.ood.toFixed(2)}`;
}

/** Show a field with a box for each cell; a click on one shows what was found there. */
function showField({ file, card }, field) {
  card.classList.add("field");
  const count = field.cells.length;
  const name = `${file.name}: a field with ${count} white cell${count === 1 ? "" : "s"}`;
  const photo = picture(name, "photo", `data:image/jpeg;base64,${field.picture_jpeg}`);
  const boxes = card.querySelector(".boxes");
  card.querySelector(".picture").replaceChildren(photo, boxes);
  card.querySelector("figcaption").textContent = `${file.name} · ${field.width} × ${field.height}`;
  const identified = Object.values(field.counts).reduce((sum, one) => sum + one, 0);
  const shares = Object.entries(field.counts).filter(([, of]) => of).map(([label, of]) => `${label} ${of}`);
  const summary = card.querySelector(".summary");
  summary.hidden = false;
  summary.textContent = `${count} white cell${count === 1 ? "" : "s"}: ${identified} identified`
    + `${shares.length ? ` (${shares.join(", ")})` : ""}, ${field.unidentified} not`;
  if (!count) {
    card.querySelector("h2").textContent = "No white cell found";
    card.querySelector("table").hidden = true;
    results.push({ file: file.name, number: 0, label: "", confidence: "", probabilities: {}, ood: "", flag: "no-cell", bundle: field.bundle });
    return;
  }
  field.cells.forEach((cell, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.classList.toggle("flagged", Boolean(cell.flag));
    lay(button, cell.cell ?? cell.box, field);
    const number = document.createElement("span");
    number.textContent = index + 1;
    button.append(number);
    button.setAttribute("aria-label", `Cell ${index + 1}: ${cell.label}, ${percent(cell.confidence)}${cell.flag ? `, ${cell.flag}` : ""}`);
    button.addEventListener("click", () => select(card, field, index));
    boxes.append(button);
    results.push({ file: file.name, number: index + 1, bundle: field.bundle, ...cell });
  });
  select(card, field, 0);
}

function select(card, field, index) {
  const cell = field.cells[index];
  card.querySelectorAll(".boxes button").forEach((button, place) => button.setAttribute("aria-pressed", place === index));
  card.querySelector(".heat")?.remove();
  const heat = heatmap(cell);
  lay(heat, cell.gradcam.place, field);
  card.querySelector(".photo").after(heat);
  describe(card, cell, field.bundle);
  card.querySelector("h2").prepend(`${index + 1}. `);
}

/** Lay something on its place in an image, whatever size that is shown at. */
function lay(element, [left, top, right, bottom], image) {
  element.style.left = `${100 * left / image.width}%`;
  element.style.top = `${100 * top / image.height}%`;
  element.style.width = `${100 * (right - left) / image.width}%`;
  element.style.height = `${100 * (bottom - top) / image.height}%`;
}

function row([name, share]) {
  const line = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  const bar = document.createElement("td");
  const meter = document.createElement("meter");
  meter.max = 1;
  meter.value = share;
  meter.setAttribute("aria-label", name);
  bar.append(meter);
  const number = document.createElement("td");
  number.className = "share";
  number.textContent = percent(share);
  line.append(head, bar, number);
  return line;
}

function fail({ card }, message) {
  card.classList.add("failed");
  card.querySelector("h2").textContent = "Not classified";
  const flag = card.querySelector(".flag");
  flag.hidden = false;
  flag.textContent = message;
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function say() {
  const cards = [...$("results").children];
  const failed = cards.filter((card) => card.classList.contains("failed")).length;
  const done = cards.filter((card) => card.classList.contains("done")).length;
  const flagged = results.filter((found) => found.flag).length;
  const rest = cards.length - done - failed;
  const parts = [`${done} classified`];
  if (flagged) parts.push(`${flagged} flagged`);
  if (failed) parts.push(`${failed} failed`);
  if (rest) parts.push(`${rest} to go`);
  $("status").textContent = parts.join(", ");
}

function save() {
  const names = [...new Set(results.flatMap((found) => Object.keys(found.probabilities)))];
  const quote = (value) => {
    const text = String(value);
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const lines = [["image", "cell", "label", "confidence", ...names.map((name) => `p_${name}`), "ood", "flag", "bundle"]];
  for (const found of results) {
    const shares = names.map((name) => found.probabilities[name] ?? "");
    lines.push([found.file, found.number, found.label, found.confidence, ...shares, found.ood, found.flag, found.bundle]);
  }
  const text = lines.map((line) => line.map(quote).join(",")).join("\n") + "\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = "leukoray.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function clear() {
  batch += 1;
  results.length = 0;
  waiting.length = 0;
  $("results").replaceChildren();
  $("tools").hidden = true;
  $("files").focus();
}

function setStrength() {
  const value = $("strength").value;
  $("results").style.setProperty("--strength", value / 100);
  $("strength").setAttribute("aria-valuetext", `${value} percent`);
}

$("files").addEventListener("change", (event) => { add(event.target.files); event.target.value = ""; });
$("strength").addEventListener("input", setStrength);
$("save").addEventListener("click", save);
$("clear").addEventListener("click", clear);
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  $("key-form").hidden = true;
  showBundle();
  work();
});
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", type === "dragover");
    if (type === "drop") add(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => add(event.clipboardData.files));
setStrength();
showBundle();
