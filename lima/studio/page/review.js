// Candidates, one at a time: a accept, r reject, e edit, u undo, w why.
// A decision is on the server's disk before the next candidate is shown; the next ones are fetched ahead.

import { ask, bar, byId, forget, make, once, progress, SOON, text } from "./studio.js";

const AHEAD = 3;
const DONE = { accept: "accepted", reject: "rejected", edit: "edited" };
const LENGTHS = { "any length": () => true, "under 200 tokens": (n) => n < 200, "200 to 800": (n) => n >= 200 && n <= 800, "over 800": (n) => n > 800 };

let who, items, quotas, name;
let list = []; // numbers of the candidates that pass the filters
let place = 0;
let busy = false;
let onScreen, since; // which candidate, and since when
const history = [];
const filters = { state: "undecided", source: "", rule: "", length: "any length" };

export async function openReview(annotator) {
  who = annotator;
  const found = await ask("/api/review");
  if (!found) return;
  ({ items, name } = found);
  note(found);
  filter();
}

function filter() {
  const states = { undecided: (one) => !one.decision, all: () => true };
  for (const [kind, words] of Object.entries(DONE)) states[words] = (one) => one.decision === kind;
  list = items.flatMap((one, n) => {
    const fits = states[filters.state](one) && (!filters.source || one.source === filters.source);
    return fits && (!filters.rule || one.rules.includes(filters.rule)) && LENGTHS[filters.length](one.tokens) ? [n] : [];
  });
  place = 0;
  show();
}

function get(n) {
  return once(`/api/review/${n}`);
}

async function show() {
  const n = list[place];
  tell();
  if (n === undefined) {
    byId("main").replaceChildren(choices(), make("p", { className: "hint" }, list.length ? "That was the last of these." : "No candidate here passes these filters."), table());
    controls(null);
    return;
  }
  const found = await get(n);
  if (!found || list[place] !== n) return;
  const focused = document.activeElement.id;
  [onScreen, since] = [n, performance.now()];
  const turns = found.messages.map((turn) => make("section", { className: `turn ${turn.role}` }, make("h2", {}, turn.role === "user" ? "prompt" : "response"), text(turn.html)));
  byId("main").replaceChildren(choices(), make("div", { className: "review" }, make("article", { id: "candidate" }, ...turns), aside(found)));
  byId("main").dataset.n = n;
  if (focused.startsWith("by-")) byId(focused).focus();
  window.scrollTo(0, 0);
  controls(found);
  for (let next = 1; next <= AHEAD; next++) if (list[place + next] !== undefined) get(list[place + next]);
}

function tell() {
  const decided = items.filter((one) => one.decision).length;
  progress(`${name}: ${decided.toLocaleString("en")} of ${items.length.toLocaleString("en")} decided`);
}

function controls(found) {
  const actions = [["←", "", () => move(-1), "plain"], ["→", "", () => move(1), "plain"], ["u", "undo", undo, "plain"]];
  if (found) {
    actions.push(["w", "why", () => byId("why").focus(), "plain"], ["e", "edit", () => edit(found), ""]);
    actions.push(["r", "reject", () => decide("reject"), "no"], ["a", "accept", () => decide("accept"), "yes"]);
  }
  const kept = byId("why")?.dataset.n === String(onScreen) ? byId("why").value : "";
  const why = make("input", { id: "why", placeholder: "why (optional)", ariaLabel: "why", value: kept, maxLength: 2000 });
  why.dataset.n = onScreen;
  why.onkeydown = (event) => {
    if (event.key === "Enter" || event.key === "Escape") why.blur();
  };
  bar(actions, found ? [why] : []);
}

function move(by) {
  place = Math.max(0, Math.min(list.length, place + by));
  show();
}

async function decide(kind, messages = null) {
  if (list[place] !== onScreen) return show();
  if (busy || performance.now() - since < SOON) return;
  busy = true;
  const n = list[place];
  const why = byId("why")?.value.trim() || "";
  const saved = await ask(`/api/review/${n}`, { id: items[n].id, decision: kind, seen: items[n].decision, who, why, messages });
  busy = false;
  if (!saved) return again();
  forget(`/api/review/${n}`);
  note(saved);
  history.push(n);
  if (byId("why")) byId("why").value = "";
  const open = (one) => one === undefined || filters.state !== "undecided" || !items[one].decision;
  do place++;
  while (!open(list[place])); // what somebody else has decided meanwhile
  show();
}

async function undo() {
  if (busy) return;
  while (history.length && !items[history.at(-1)].decision) history.pop();
  const n = history.length ? history.at(-1) : list[place];
  if (n === undefined || !items[n].decision) return;
  busy = true;
  const saved = await ask(`/api/review/${n}`, { id: items[n].id, decision: "undo", seen: items[n].decision, who });
  busy = false;
  if (!saved) return again();
  history.pop();
  note(saved);
  const there = list.indexOf(n);
  if (there < 0) list.splice(place, 0, n);
  else place = there;
  show();
}

/** Shows what others have decided meanwhile, where that is why something was refused. */
async function again() {
  const found = await ask("/api/review");
  if (!found || found.items.some((one, n) => one.id !== items[n]?.id)) return;
  note(found);
  show();
}

/** What everybody has decided. */
function note(found) {
  quotas = found.quotas;
  found.decisions.forEach((decision, n) => {
    if (items[n].decision === decision) return;
    items[n].decision = decision;
    forget(`/api/review/${n}`);
  });
}

function edit(found) {
  const fields = found.messages.map((turn) => {
    const field = make("textarea", { value: turn.content, ariaLabel: turn.role, dir: "auto", rows: Math.min(30, 2 + turn.content.length / 70 + turn.content.split("\n").length) });
    return field;
  });
  const save = () => decide("edit", found.messages.map((turn, i) => ({ role: turn.role, content: fields[i].value })));
  for (const field of fields) {
    field.onkeydown = (event) => {
      if (event.key === "Escape") show();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
    };
  }
  byId("candidate").replaceChildren(...fields.map((field, i) => make("section", { className: "turn" }, make("h2", {}, found.messages[i].role === "user" ? "prompt" : "response"), field)));
  bar([["Esc", "leave as it was", show, "plain"], ["Ctrl+Enter", "save the edit and accept", save, "yes"]], [byId("why")]);
  fields.at(-1).focus();
}

// ---- beside the candidate

function aside(found) {
  const facts = Object.entries(found.facts).map(([key, value]) => [make("dt", {}, key), make("dd", { dir: "auto" }, value)]);
  const link = found.url && make("a", { href: found.url, target: "_blank", rel: "noopener noreferrer" }, "the source ↗");
  const warn = [...Object.entries(found.flags).map(([key, value]) => `${key}: ${value}`), ...Object.entries(found.barely).map(([key, value]) => `barely passed ${key}: ${value}`)];
  const alike = found.alike?.map(([what, share, id]) => `${what} ${Math.round(100 * share)} % like ${id}`) ?? ["looking for near-duplicates …"];
  const decided = found.decision && make("p", { className: `decided ${found.decision.decision}` }, `${DONE[found.decision.decision]} by ${found.decision.who}${found.decision.why ? `: ${found.decision.why}` : ""}`);
  return make(
    "aside",
    {},
    decided,
    make("p", { className: "id" }, found.id, link && " ", link),
    make("ul", { className: "warn" }, ...[...warn, ...alike].map((one) => make("li", { dir: "auto" }, one))),
    make("table", { className: "lengths" }, lengths(found.lengths)),
    make("dl", {}, ...facts.flat()),
    table(),
  );
}

function lengths(rows) {
  const cells = (tag, all) => all.map((one) => make(tag, {}, String(one)));
  const body = rows.map(([what, tokens, mean, paper]) => make("tr", {}, make("th", { scope: "row" }, what), ...cells("td", [tokens, mean, paper ?? "–"])));
  return make("tbody", {}, make("tr", {}, ...cells("th", ["tokens", "this", "mean", "paper"])), ...body);
}

function table() {
  const rows = quotas.map((one) => {
    const meter = make("meter", { max: one.rows ?? Math.max(1, one.accepted), value: one.accepted, ariaLabel: `${one.source} accepted` });
    const left = one.rows === null ? `${one.accepted}` : `${one.accepted} of ${one.rows}`;
    return make("tr", {}, make("th", { scope: "row" }, `${one.source}${one.split && one.split !== "train" ? `, ${one.split}` : ""}`), make("td", {}, meter), make("td", {}, left));
  });
  return make("details", { className: "quotas", open: true }, make("summary", {}, "accepted"), make("table", {}, make("tbody", {}, ...rows)));
}

function choices() {
  const pick = (key, label, options) => {
    const select = make("select", { ariaLabel: label, id: `by-${key}` }, ...options.map(([value, words]) => make("option", { value, textContent: words, selected: filters[key] === value })));
    select.onchange = () => {
      filters[key] = select.value;
      filter();
    };
    return select;
  };
  const sorted = (values) => [...new Set(values)].sort().map((one) => [one, one]);
  const where = list.length ? `${Math.min(place + 1, list.length)} of ${list.length}` : "none";
  return make(
    "div",
    { className: "filters" },
    pick("state", "decision", ["undecided", "all", ...Object.values(DONE)].map((one) => [one, one])),
    pick("source", "source", [["", "all sources"], ...sorted(items.map((one) => one.source))]),
    pick("rule", "rule", [["", "all rules"], ...sorted(items.flatMap((one) => one.rules))]),
    pick("length", "length", Object.keys(LENGTHS).map((one) => [one, one])),
    make("span", { className: "soft" }, where),
  );
}
