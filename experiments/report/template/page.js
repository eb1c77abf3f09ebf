"use strict";

// The gallery: filters (kept in the address after #), cards that are made as they come into view, and their details.

const $ = (selector, root = document) => root.querySelector(selector);
const data = JSON.parse($("#data").textContent);
const form = $("#filters"), list = $("#cards"), details = $("#details");
const CHUNK = 16;
const labels = data.methods.map((caption) => caption.filter(Boolean).join(" "));
const controls = [...form.elements].filter((control) => control.name);
const control = Object.fromEntries(controls.map((one) => [one.name, one]));

const cards = data.cards.map(([prompt, seed, condition, cells]) => {
  const [text, kind] = data.prompts[prompt];
  const shots = cells.map(([method, source, subjects, values, reasons]) => {
    const entry = source === undefined ? undefined : data.pictures[source];
    return { method, entry, subjects: data.subjects[subjects] ?? [], values: values ?? [], reasons: reasons ?? [] };
  });
  const subjects = shots.map((shot) => shot.subjects).find((texts) => texts.length) ?? [];
  return { text, kind, seed, conditions: data.conditions[condition], shots, subjects, searched: text.toLowerCase() };
});
let found = [], made = 0, open = 0, hidden = new Set();

/** An element with properties and children; texts become text, never markup. */
function el(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null));
  return node;
}

/* ---------------------------------------------------------------- filters */

const metricNumber = (name) => data.metrics.findIndex((metric) => metric[0] === name);
const chosen = (name) => labels.indexOf(control[name].value);
const judge = () => (control.judge ? metricNumber(control.judge.value) : -1);
const valueOf = (card, method, metric) =>
  card.shots.find((shot) => shot.method === method)?.values[metric] ?? undefined;

const OUTCOMES = {
  right: (a) => a === 1,
  wrong: (a) => a === 0,
  won: (a, b) => a === 1 && b === 0,
  lost: (a, b) => a === 0 && b === 1,
  differ: (a, b) => a !== undefined && b !== undefined && a !== b,
};

function difference(card) {
  if (!control.metric) return undefined;
  const metric = metricNumber(control.metric.value);
  const a = valueOf(card, chosen("a"), metric), b = valueOf(card, chosen("b"), metric);
  return a === undefined || b === undefined ? undefined : a - b;
}

function passing() {
  const words = control.q.value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = control.kind?.value;
  const conditions = controls.filter((one) => one.dataset.field && one.value);
  const outcome = OUTCOMES[control.outcome?.value], metric = judge(), a = chosen("a"), b = chosen("b");
  const least = Number(control.least?.value) || 0;
  return cards.filter((card) =>
    words.every((word) => card.searched.includes(word)) &&
    (!kind || kind === card.kind) &&
    conditions.every((one) => one.value === card.conditions[one.dataset.field]) &&
    (!outcome || outcome(valueOf(card, a, metric), valueOf(card, b, metric))) &&
    (least <= 0 || Math.abs(difference(card) ?? 0) >= least - 1e-9));
}

function sorted(of) {
  const order = control.sort?.value;
  if (!order) return of;
  const sign = order === "descending" ? -1 : 1;
  const known = of.map((card) => [difference(card), card]);
  const inOrder = known.filter(([by]) => by !== undefined).sort((x, y) => sign * (x[0] - y[0]));
  return [...inOrder, ...known.filter(([by]) => by === undefined)].map(([, card]) => card);
}

function refresh() {
  found = sorted(passing());
  hidden = new Set(controls.filter((one) => one.name === "hide" && !one.checked).map((one) => one.value));
  list.style.setProperty("--n", Math.max(1, labels.length - hidden.size));
  list.replaceChildren();
  made = 0;
  append();
  $("#count").textContent = `${found.length.toLocaleString("en")} of ${cards.length.toLocaleString("en")}`;
  $("#none").hidden = found.length > 0;
  const view = address();
  if (view || location.hash.includes("=")) history.replaceState(null, "", "#" + (view || "gallery"));
}

/* ------------------------------------------------- the view in the address */

const initial = (one) =>
  one.tagName === "SELECT" ? ([...one.options].find((o) => o.defaultSelected) ?? one.options[0]).value : one.defaultValue;

function address() {
  const view = new URLSearchParams();
  for (const one of controls) {
    if (one.type === "checkbox") {
      if (!one.checked) view.append(one.name, one.value);
    } else if (one.value !== initial(one)) view.set(one.name, one.value);
  }
  return view.toString();
}

function restore() {
  const view = new URLSearchParams(location.hash.slice(1));
  for (const one of controls) {
    const value = view.get(one.name) ?? initial(one);
    if (one.type === "checkbox") one.checked = !view.getAll(one.name).includes(one.value);
    else if (one.tagName !== "SELECT" || [...one.options].some((o) => o.value === value)) one.value = value;
  }
  refresh();
}

/* ------------------------------------------------------------------- cards */

const isShown = (shot) => !hidden.has(labels[shot.method]);
const plain = (value) => Number.isInteger(value) || (Math.abs(value) >= 0.001 && Math.abs(value) < 1000);
const number = (value) => (Number.isInteger(value) ? String(value) : plain(value) ? value.toFixed(3) : value.toExponential(2));

function verdict(shot) {
  const value = shot.values[judge()];
  return value === 1 ? "right" : value === 0 ? "wrong" : "";
}

function image([file, width, height], alt) {
  const small = Math.max(width, height) <= 128 ? "small" : "";
  return el("img", { src: file, width, height, alt, className: small, loading: "lazy", decoding: "async" });
}

/** The picture in its frame, or what is there instead. */
function picture(shot) {
  const result = verdict(shot), alt = `Picture by ${labels[shot.method]}${result && ", " + result}`;
  if (!Array.isArray(shot.entry)) {
    const why = shot.entry === undefined ? "not sampled" : `${shot.entry.split("/").pop()} is missing`;
    return el("div", { className: `frame gap ${result}` }, el("span", {}, why));
  }
  const mark = result ? el("span", { className: "mark", textContent: result === "right" ? "✓" : "✕", title: result }) : null;
  mark?.setAttribute("aria-hidden", "true");
  return el("div", { className: `frame ${result}` }, image(shot.entry, alt), mark);
}

function caption(shot, tag = "p") {
  const [name, detail] = data.methods[shot.method];
  const inOneLine = detail.replace(/ω /g, "ω\u00a0");
  return el(tag, { className: "method" }, el("b", { textContent: name }), " ", el("span", { textContent: inOneLine }));
}

function swatches(subjects) {
  return subjects.map((text, i) => {
    const swatch = el("i", { className: "swatch" });
    swatch.style.background = data.colours[i % data.colours.length];
    return el("span", {}, swatch, text);
  });
}

/** A name that may be broken after each underscore. */
const breakable = (name) => name.split(/(?<=_)/).flatMap((part) => [part, el("wbr")]);

function shotItem(card, shot) {
  const scores = data.metrics.flatMap(([name], m) => {
    const value = shot.values[m];
    return shot.values.length ? [el("dt", {}, ...breakable(name)), el("dd", { textContent: value === null ? "–" : number(value) })] : [];
  });
  const reasons = [...new Set(shot.reasons.map((r) => data.reasons[r]).filter(Boolean))];
  const own = shot.subjects.length && String(shot.subjects) !== String(card.subjects);
  const trace = shot.entry?.[3];
  return el("li", {}, picture(shot),
    trace && Array.isArray(shot.entry) ? el("div", { className: "trace" }, image(trace, `Timesteps and masks of ${labels[shot.method]}`)) : null,
    caption(shot),
    own ? el("p", { className: "subjects" }, ...swatches(shot.subjects)) : null,
    scores.length ? el("dl", {}, ...scores) : null,
    ...reasons.map((text) => el("p", { className: "reason", textContent: text, title: text })));
}

function facts(card) {
  const conditions = data.fields.map((name, i) => `${name} ${card.conditions[i]}`);
  const by = control.metric && (control.sort.value || Number(control.least.value) > 0) ? difference(card) : undefined;
  const gap = by === undefined ? "" : `${control.metric.value} A − B ${by > 0 ? "+" : ""}${number(by).replace("-", "−")}`;
  return [card.kind, `seed ${card.seed}`, ...conditions, gap].filter(Boolean).join(" · ");
}

function cardItem(card) {
  const button = el("button", { type: "button", className: "open", textContent: card.text });
  button.setAttribute("aria-haspopup", "dialog");
  const place = made;
  button.addEventListener("click", () => show(place));
  return el("article", { className: "card" },
    el("header", {}, el("h3", {}, button), el("p", { className: "facts", textContent: facts(card) }),
      el("p", { className: "subjects" }, ...swatches(card.subjects))),
    el("ul", {}, ...card.shots.filter(isShown).map((shot) => shotItem(card, shot))));
}

function append() {
  const chunk = document.createDocumentFragment();
  for (const end = Math.min(made + CHUNK, found.length); made < end; made++) chunk.append(cardItem(found[made]));
  list.append(chunk);
  watcher.unobserve($("#more"));  // and again: what stays in view is told of only once
  watcher.observe($("#more"));
}

const watcher = new IntersectionObserver((entries) => {
  if (made < found.length && entries.some((entry) => entry.isIntersecting)) append();
}, { rootMargin: "1200px" });

/* ----------------------------------------------------------------- details */

function way(shot) {
  const [steps, ticks] = data.ways[shot.entry[3][3]];
  const rows = [image(shot.entry[3], "Timesteps above, masks of the subjects below")];
  if (shot.entry[4]) rows.push(image(shot.entry[4], "Predicted clean pictures at these steps"));
  const heads = steps.map((step, i) => el("span", {}, el("b", { textContent: `step ${step}` }), ticks[i]));
  const track = el("div", { className: "way" }, el("div", { className: "ticks" }, ...heads), ...rows);
  track.style.setProperty("--columns", steps.length);
  const told = `Timesteps (violet clean, yellow noise), masks of the subjects${shot.entry[4] ? ", predicted clean pictures" : ""}.`;
  const box = el("div", { className: "scroll", tabIndex: 0 }, track);
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", `Trace of ${labels[shot.method]}`);
  return el("figure", {}, box, el("figcaption", { textContent: told }));
}

function detail(card, shot) {
  const rows = data.metrics.map(([name], m) => {
    const value = shot.values[m] ?? null;
    const cells = [value === null ? "–" : String(value), data.reasons[shot.reasons[m]] ?? ""];
    return el("tr", {}, el("th", { scope: "row", textContent: name }), ...cells.map((text) => el("td", { textContent: text })));
  });
  const own = String(shot.subjects) !== String(card.subjects) && shot.subjects.length;
  return el("section", {}, picture(shot), el("div", {}, caption(shot, "h3"),
    own ? el("p", { className: "subjects" }, ...swatches(shot.subjects)) : null,
    shot.values.length ? el("table", {}, el("tbody", {}, ...rows)) : null,
    Array.isArray(shot.entry) && shot.entry[3] ? way(shot) : null));
}

function show(place) {
  if (place < 0 || place >= found.length) return;
  open = place;
  const card = found[place];
  $("#details-title").textContent = card.text;
  $(".facts", details).textContent = `${facts(card)} · ${place + 1} of ${found.length}`;
  $(".subjects", details).replaceChildren(...swatches(card.subjects));
  const body = $(".body", details);
  body.replaceChildren(...card.shots.filter(isShown).map((shot) => detail(card, shot)));
  $("#previous").disabled = place === 0;
  $("#next").disabled = place === found.length - 1;
  if (!details.open) details.showModal();
  body.scrollTop = 0;
  body.focus();
}

/* -------------------------------------------------------------------- keys */

const columns = () => getComputedStyle(list).gridTemplateColumns.split(" ").length;

function go(place) {
  if (place < 0 || place >= found.length) return;
  while (made <= place) append();
  const button = $(".open", list.children[place]);
  button.focus({ preventScroll: true });
  list.children[place].scrollIntoView({ block: "nearest" });
}

const MOVES = { ArrowRight: () => 1, ArrowLeft: () => -1, ArrowDown: columns, ArrowUp: () => -columns(), j: () => 1, k: () => -1 };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if ($("#keys").open) return;
  const typing = event.target.closest("input, select, textarea"), move = MOVES[event.key];
  if (details.open) {
    const box = event.target.closest(".scroll");
    if (!move || /Up|Down/.test(event.key) || (box && box.scrollWidth > box.clientWidth)) return;
    show(open + move());
  } else if (typing) return;
  else if (event.key === "/") $("#search").focus();
  else if (event.key === "?") $("#keys").showModal();
  else if (move) {
    const at = [...list.children].indexOf(document.activeElement.closest(".card"));
    if (at < 0 && event.key.startsWith("Arrow")) return;
    go(at < 0 ? 0 : at + move());
  } else return;
  event.preventDefault();
});

for (const one of controls) one.addEventListener(one.matches("select, [type=checkbox]") ? "change" : "input", refresh);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(refresh));  // the event comes before the reset
$("#help").addEventListener("click", () => $("#keys").showModal());
$("#previous").addEventListener("click", () => show(open - 1));
$("#next").addEventListener("click", () => show(open + 1));
details.addEventListener("close", () => go(open));
document.querySelectorAll("dialog").forEach((dialog) => {
  $(".close", dialog).addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
});
addEventListener("hashchange", () => (location.hash.includes("=") || !location.hash) && restore());
$("#scale").hidden = !data.ways.length;
$("#panel").open = matchMedia("(min-width: 700px)").matches;
restore();
requestAnimationFrame(() => setTimeout(() => performance.mark("cards")));
