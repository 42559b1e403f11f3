// The frame of all rooms: where one is, who one is, keys, and asking the server.
// Only HTML that the server made inert is set as HTML; everything else is text.

import { openReview } from "./review.js";
import { openAnnotation } from "./annotate.js";

const TITLES = { review: "Review", compare: "Compare", rate: "Rate" };
let keys = {};

export const byId = (id) => document.getElementById(id);

export function make(tag, props = {}, ...inside) {
  const found = Object.assign(document.createElement(tag), props);
  found.append(...inside.filter((one) => one)); // what is not there is null
  return found;
}

/** A text from a model or a source: HTML that the server made. */
export function text(html, name = "") {
  return make("div", { className: `text ${name}`, innerHTML: html, dir: "auto" });
}

/** Asks the server; shows what went wrong, and then returns null. */
export async function ask(path, body) {
  try {
    const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    const reply = await fetch(path, options || undefined);
    const found = await reply.json();
    if (!reply.ok) throw new Error(found.error);
    if (body) say(""); // what was fetched ahead says nothing of what was not saved
    return found;
  } catch (error) {
    say(error instanceof TypeError ? "The studio does not answer. What you see is not saved; start it again and go on." : error.message);
    return null;
  }
}

export const SOON = 300; // milliseconds after a text appears in which a click can only be the second half of a double click
const fetched = new Map();

/** What the server says at a path, fetched once; what failed is fetched again. */
export function once(path) {
  if (!fetched.has(path)) fetched.set(path, ask(path).then((found) => found || (fetched.delete(path), null)));
  return fetched.get(path);
}

export function forget(path) {
  fetched.delete(path);
}

export function say(words) {
  byId("error").textContent = words;
  byId("error").hidden = !words;
}

/** The buttons below, each with its key: [key, words, what it does, how it looks]. */
export function bar(actions, more = []) {
  keys = {};
  const buttons = actions.map(([key, words, act, look]) => {
    const button = make("button", { className: look || "", onclick: act }, make("kbd", {}, key), words);
    keys[{ "←": "ArrowLeft", "→": "ArrowRight", Esc: "Escape" }[key] ?? key] = act;
    return button;
  });
  const [moves, choices] = [true, false].map((plain) => buttons.filter((one) => one.classList.contains("plain") === plain));
  byId("bar").replaceChildren(...more, make("div", { className: "moves" }, ...moves), make("div", { className: "choices" }, ...choices));
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const act = keys[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});

export function progress(words) {
  byId("progress").textContent = words;
}

/** Asks for a name, once; it stays in this browser. */
function name(named) {
  const kept = localStorage.getItem("who");
  if (kept) return Promise.resolve(kept);
  return new Promise((done) => {
    const field = make("input", { id: "name", autocomplete: "off", maxLength: 40, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", required: true });
    const form = make(
      "form",
      { className: "enter" },
      make("label", { htmlFor: "name" }, named ? "Your name or code, as it was given to you" : "Your name, as it shall stand beside what you decide"),
      field,
      make("button", { className: "main" }, "Begin"),
    );
    form.onsubmit = (event) => {
      event.preventDefault();
      localStorage.setItem("who", field.value.trim());
      done(field.value.trim());
    };
    byId("main").replaceChildren(form);
    field.focus();
  });
}

async function start() {
  const found = await ask("/api/rooms");
  if (!found) return;
  const room = location.pathname.slice(1) || Object.keys(TITLES).find((one) => found.rooms[one]) || "review";
  byId("rooms").replaceChildren(
    ...Object.entries(TITLES).map(([one, title]) =>
      make("a", { href: `/${one}`, textContent: title, className: found.rooms[one] ? "" : "empty", ariaCurrent: one === room ? "page" : null }),
    ),
  );
  document.title = `${TITLES[room]} · studio`;
  if (!found.rooms[room]) {
    byId("main").replaceChildren(make("p", { className: "hint" }, found.hints[room] || "Nothing here."));
    return;
  }
  const who = await name(found.named);
  byId("who").textContent = who;
  byId("who").hidden = false;
  byId("who").onclick = () => {
    localStorage.removeItem("who");
    location.reload();
  };
  if (room === "review") openReview(who);
  else openAnnotation(room, who, found.instructions[room]);
}

start();
