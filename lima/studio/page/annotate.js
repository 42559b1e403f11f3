// Two answers, or one, and three choices by 1 2 3; then what all have found.
// A choice is on the server's disk before the next item is shown.

import { ask, bar, byId, make, once, progress, SOON, text } from "./studio.js";

const CHOICES = {
  compare: ["A is significantly better", "B is significantly better", "neither"],
  rate: ["excellent", "pass", "fail"],
};
const AGAIN = 5000; // between two looks at the results

let room, who, instruction;
let session = []; // [id, choice or null], in order
let seen = false; // the results, since the last choice
let place = 0;
let busy = false;
let shown = 0;
let again; // the next look at the results
let watched = 0; // milliseconds that the item was on screen, in a tab that was open

export async function openAnnotation(name, annotator, words) {
  [room, who, instruction] = [name, annotator, words];
  const found = await ask(`/api/${room}/session?who=${encodeURIComponent(who)}`);
  if (!found) {
    const other = make("button", { className: "main", onclick: () => byId("who").click() }, "Enter another name");
    byId("main").replaceChildren(make("div", { className: "enter" }, other));
    return;
  }
  [session, seen] = [found.items, found.seen];
  next(0);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) watched += performance.now() - shown;
  else shown = performance.now();
});

function next(from) {
  const open = session.findIndex(([, choice], i) => i >= from && choice === null);
  place = open >= 0 ? open : session.findIndex(([, choice]) => choice === null);
  if (place < 0) place = session.length;
  show();
}

function get(at) {
  return once(`/api/${room}/items/${session[at][0]}?who=${encodeURIComponent(who)}`);
}

async function show() {
  const done = session.filter(([, choice]) => choice !== null).length;
  progress(`${done.toLocaleString("en")} of ${session.length.toLocaleString("en")} done`);
  if (place >= session.length) return finished();
  const at = place;
  const item = await get(at);
  if (!item || place !== at) return;
  const pair = item.answers.length === 2;
  const answers = item.answers.map((html, i) => make("section", { className: "answer" }, make("h2", {}, pair ? `answer ${"AB"[i]}` : "answer"), text(html)));
  const told = make("details", { className: "told", open: done === 0 }, make("summary", {}, "what to decide"), make("p", {}, instruction));
  byId("main").replaceChildren(told, make("section", { className: "asked" }, make("h2", {}, "prompt"), text(item.prompt)), make("div", { className: pair ? "answers two" : "answers" }, ...answers));
  byId("main").dataset.id = item.id;
  window.scrollTo(0, 0);
  [shown, watched] = [performance.now(), 0];
  controls();
  for (let ahead = at + 1; ahead <= at + 2 && ahead < session.length; ahead++) get(ahead);
}

function controls() {
  const chosen = session[place][1];
  const actions = [["←", "", () => move(-1), "plain"], ["→", "", () => move(1), "plain"]];
  CHOICES[room].forEach((words, i) => actions.push([String(i + 1), words, () => choose(i + 1), chosen === i + 1 ? "main" : ""]));
  bar(actions);
}

function move(by) {
  const end = session.every(([, choice]) => choice !== null) ? session.length : session.length - 1;
  place = Math.max(0, Math.min(end, place + by));
  show();
}

async function choose(choice) {
  if (byId("main").dataset.id !== session[place][0]) return show();
  if (busy || performance.now() - shown < SOON) return;
  busy = true;
  const seconds = Math.min(86400, (watched + performance.now() - shown) / 1000);
  const saved = await ask(`/api/${room}/items/${session[place][0]}`, { who, choice, seconds });
  busy = false;
  if (!saved) return;
  seen &&= session[place][1] === choice;
  session[place][1] = choice;
  next(place + 1);
}

// ---- results, for who has finished

async function finished() {
  const back = ["←", "look again at your last item", () => move(-1), "plain"];
  if (!seen) {
    bar([back, ["Enter", "see the results", () => ((seen = true), finished()), "main"]]);
    byId("main").replaceChildren(make("p", { className: "hint" }, "Your share is done, thank you. Once you have seen the results, what you chose stands."));
    return;
  }
  bar([back]);
  const found = await ask(`/api/${room}/results?who=${encodeURIComponent(who)}`);
  if (!found || place < session.length) return;
  const thanks = make("p", { className: "hint" }, "This is what all have found so far.");
  byId("main").replaceChildren(make("div", {}, thanks, ...found.tables.map(shares), agreement(found.agreement)));
  clearTimeout(again);
  again = setTimeout(() => place >= session.length && finished(), AGAIN);
}

function shares(table) {
  const head = make("tr", {}, ...["", "", ...table.shares, "prompts"].map((words) => make("th", { scope: "col" }, words)));
  const rows = table.rows.map((row) => {
    const parts = table.shares.map((name, i) => {
      const part = make("i", { className: `part${i}`, title: `${name} ${percent(row.shares[name])}` });
      part.style.width = `${100 * row.shares[name][0]}%`;
      return part;
    });
    const cells = table.shares.map((name) => make("td", {}, percent(row.shares[name])));
    return make("tr", {}, make("th", { scope: "row" }, row.who), make("td", {}, make("span", { className: "stack" }, ...parts)), ...cells, make("td", {}, String(row.n)));
  });
  return make("section", { className: "found" }, make("h2", {}, table.title), make("div", { className: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))));
}

function agreement(rows) {
  if (!rows.length) return null;
  const head = make("tr", {}, ...["", "agreement", "paper", "items"].map((words) => make("th", { scope: "col" }, words)));
  const body = rows.map((row) => make("tr", {}, make("th", { scope: "row" }, row.pair), make("td", {}, percent(row.share)), make("td", {}, row.paper === null ? "–" : `${row.paper} %`), make("td", {}, String(row.items))));
  return make("section", { className: "found" }, make("h2", {}, "agreement, tie-discounted"), make("div", { className: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body))));
}

function percent([share, low, high]) {
  return `${(100 * share).toFixed(0)} % (${(100 * low).toFixed(0)}–${(100 * high).toFixed(0)})`;
}
