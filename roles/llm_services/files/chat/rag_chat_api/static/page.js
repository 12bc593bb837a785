import { Refused, ask, refused } from "./stream.js";
import { node, rendered } from "./text.js";

const $ = (id) => document.getElementById(id);
const IDEAS = ["Explain how a ZFS mirror repairs itself", "Write a polite reply to a late delivery", "Compare TCP and UDP in a short list"];
const CHATS = "llm-chats";
const KEPT = 60;
// Turns that go with a question; the service takes no more.
const TOLD = 200;
let chats = JSON.parse(localStorage.getItem(CHATS) || "[]");
let now = null;
let running = null;

// --- the key ---------------------------------------------------------------------------------------------------------------
const key = () => sessionStorage.getItem("llm-key") || localStorage.getItem("llm-key") || "";
const headers = () => (key() ? { Authorization: `Bearer ${key()}` } : {});

function askForKey() {
  $("key").value = key();
  $("keep").checked = Boolean(localStorage.getItem("llm-key"));
  $("key-dialog").showModal();
}

$("key-form").addEventListener("submit", () => {
  localStorage.removeItem("llm-key");
  sessionStorage.removeItem("llm-key");
  ($("keep").checked ? localStorage : sessionStorage).setItem("llm-key", $("key").value.trim());
  listCollections();
});
$("key-cancel").addEventListener("click", () => $("key-dialog").close());
$("open-key").addEventListener("click", askForKey);

async function api(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  if (answer.status === 401) askForKey();
  if (!answer.ok) throw await refused(answer);
  return answer.json();
}

// --- the list of conversations ---------------------------------------------------------------------------------------------
function save() {
  chats = chats.filter((chat) => chat.turns.length).slice(0, KEPT);
  try {
    localStorage.setItem(CHATS, JSON.stringify(chats));
  } catch {
    chats.pop();
    localStorage.setItem(CHATS, JSON.stringify(chats));
  }
}

function listChats() {
  $("history").replaceChildren(...chats.filter((chat) => chat.turns.length).map((chat) => {
    const open = node("button", { type: "button", className: "open", onclick: () => show(chat) }, chat.title);
    if (chat === now) open.setAttribute("aria-current", "true");
    const forget = node("button", { type: "button", className: "forget", "aria-label": `Delete ${chat.title}`, onclick: () => drop(chat) }, "✕");
    return node("li", { className: chat === now ? "now" : "" }, open, forget);
  }));
}

function drop(chat) {
  chats = chats.filter((one) => one !== chat);
  save();
  if (chat === now) fresh();
  else listChats();
}

function fresh() {
  show({ title: "New chat", turns: [] });
}

function show(chat) {
  if (running) running.abort();
  now = chat;
  $("title").textContent = chat.title;
  document.title = chat.title === "New chat" ? "Chat" : chat.title;
  $("notice").hidden = true;
  $("log").replaceChildren(...(chat.turns.length ? chat.turns.map((turn) => new Turn(turn).element) : [empty]));
  $("log").scrollTop = $("log").scrollHeight;
  toggleSide(false);
  listChats();
  $("question").focus();
}

function toggleSide(open) {
  $("side").classList.toggle("open", open);
  $("side-open").setAttribute("aria-expanded", String(open));
  if (open) $("new").focus();
}

// --- one turn --------------------------------------------------------------------------------------------------------------
class Turn {
  constructor(turn) {
    this.turn = turn;
    this.body = node("div", { className: "body" });
    this.element = node("article", { className: `turn ${turn.role}`, "aria-label": turn.role === "user" ? "You" : "Answer" });
    this.thinking = node("details", { className: "thinking", hidden: true }, node("summary", {}, "Thinking"), node("p"));
    this.sources = node("div", { className: "sources" });
    this.foot = node("div", { className: "foot" });
    if (turn.role === "user") this.element.append(this.body);
    else this.element.append(this.thinking, this.body, this.sources, this.foot);
    this.draw();
    if (turn.sources) this.cite();
    if (turn.role === "assistant" && turn.content) this.end();
  }

  draw() {
    if (this.turn.role === "user") this.body.textContent = this.turn.content;
    else this.body.replaceChildren(...rendered(this.turn.content, (number) => this.mark(number)));
  }

  grow(text) {
    this.turn.content += text;
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = undefined;
      const follow = $("log").scrollHeight - $("log").scrollTop - $("log").clientHeight < 80;
      this.draw();
      this.busy(this.live);
      if (follow) $("log").scrollTop = $("log").scrollHeight;
    });
  }

  think(text) {
    this.thinking.hidden = false;
    this.thinking.lastChild.append(text);
  }

  busy(live) {
    this.live = live;
    this.body.classList.toggle("cursor", live && !this.body.lastElementChild);
    this.body.lastElementChild?.classList.toggle("cursor", live);
  }

  mark(number) {
    if (!this.turn.sources || number > this.turn.sources.length) return null;
    const open = (event) => {
      event.preventDefault();
      const shown = this.sources.querySelectorAll("details")[number - 1];
      shown.open = true;
      shown.querySelector("summary").focus();
    };
    return node("a", { href: "#", className: "cite", "aria-label": `Source ${number}`, onclick: open }, `[${number}]`);
  }

  cite() {
    const list = this.turn.sources.map((source, at) => node("details", {},
      node("summary", {}, `[${at + 1}] ${source.name}`, node("span", { className: "score" }, `${Math.round(source.score * 100)} %`)),
      node("p", {}, source.text)));
    this.sources.replaceChildren(node("strong", {}, "Sources"), ...list);
  }

  end() {
    const copy = node("button", { type: "button", onclick: () => navigator.clipboard.writeText(this.turn.content) }, "Copy");
    this.foot.replaceChildren(copy, ...(this.turn.about ? [node("span", {}, this.turn.about)] : []));
  }

  fail(message, again) {
    const retry = node("button", { type: "button", onclick: again }, "Try again");
    this.foot.replaceChildren(node("div", { className: "problem", role: "alert" }, node("span", {}, message), retry));
  }
}

// --- asking ----------------------------------------------------------------------------------------------------------------
function notice(text, good = false) {
  $("notice").textContent = text;
  $("notice").classList.toggle("good", good);
  $("notice").hidden = !text;
}

function busy(live) {
  $("stop").hidden = !live;
  $("send").hidden = live;
}

async function send(text) {
  if (!now.turns.length) {
    now.title = text.split("\n")[0].slice(0, 60);
    chats.unshift(now);
    $("title").textContent = now.title;
    $("log").replaceChildren();
  }
  const history = now.turns.filter((turn) => turn.content).map(({ role, content }) => ({ role, content })).slice(-TOLD);
  while (history[0]?.role === "assistant") history.shift();
  const asked = { role: "user", content: text };
  now.turns.push(asked);
  $("log").append(new Turn(asked).element);
  await answer(text, history);
}

async function answer(text, history) {
  const chat = now;
  const turn = { role: "assistant", content: "" };
  const shown = new Turn(turn);
  chat.turns.push(turn);
  $("log").append(shown.element);
  $("log").scrollTop = $("log").scrollHeight;
  shown.busy(true);
  busy(true);
  listChats();
  const stop = new AbortController();
  running = stop;
  const began = performance.now();
  const body = { message: text, history, collection: $("collection").value || null, stream: true };
  let problem = "";
  const handle = (name, data) => {
    if (name === "token") shown.grow(data.text);
    else if (name === "thinking") shown.think(data.text);
    else if (name === "sources") { turn.sources = data.sources; shown.cite(); }
    else if (name === "notice") notice("A GPU server went away. Your answer is being moved to another one…");
    else if (name === "continued") { notice("Another server took over. Nothing was lost.", true); setTimeout(() => notice(""), 6000); }
    else if (name === "error") problem = data.message;
    else if (name === "done") turn.about = about(data, performance.now() - began);
  };
  try {
    await patiently(() => ask("/api/chat", body, { headers: headers(), signal: stop.signal, handle }), stop.signal);
    if (!problem && !turn.about) problem = "The connection was lost before the answer was whole.";
  } catch (error) {
    if (error.status === 401) askForKey();
    if (error.name === "AbortError") turn.about = "stopped";
    else problem = error instanceof Refused ? error.message : "The service cannot be reached. Check your connection.";
  }
  finish(chat, shown, problem, () => again(chat, turn, text, history, shown));
}

/** Where all servers are busy or being replaced, wait and ask again, and say so. */
async function patiently(act, signal) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await act();
    } catch (error) {
      if (error.status !== 503 || attempt >= 12 || signal.aborted) throw error;
      for (let left = error.retryAfter || 5; left > 0 && !signal.aborted; left -= 1) {
        notice(`All servers are busy or being replaced. Asking again in ${left} s…`);
        await new Promise((done) => setTimeout(done, 1000));
      }
      notice("");
      signal.throwIfAborted();
    }
  }
}

function again(chat, turn, text, history, shown) {
  chat.turns = chat.turns.filter((one) => one !== turn);
  shown.element.remove();
  answer(text, history);
}

function finish(chat, shown, problem, retry) {
  running = null;
  busy(false);
  shown.draw();
  shown.busy(false);
  if (problem) { notice(""); shown.fail(problem, retry); } else shown.end();
  save();
  listChats();
  if (chat === now) $("question").focus();
}

function about(data, milliseconds) {
  const seconds = milliseconds / 1000;
  const speed = data.tokens ? ` · ${data.tokens} tokens, ${(data.tokens / seconds).toFixed(0)} a second` : "";
  const moved = data.continued ? ` · moved ${data.continued === 1 ? "once" : `${data.continued} times`}` : "";
  return `${data.model} · ${seconds.toFixed(1)} s${speed}${moved}`;
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("question").value.trim();
  if (!text || running) return;
  $("question").value = "";
  fit();
  send(text);
});
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
function fit() {
  $("question").rows = Math.min(10, $("question").value.split("\n").length);
}
$("question").addEventListener("input", fit);
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", fresh);
$("side-open").addEventListener("click", () => toggleSide(true));
$("side-close").addEventListener("click", () => { toggleSide(false); $("side-open").focus(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) running.abort();
  else if (event.key === "Escape") toggleSide(false);
  else if (event.altKey && event.code === "KeyN") { event.preventDefault(); fresh(); }
});

// --- documents -------------------------------------------------------------------------------------------------------------
const passages = (count) => (count === 1 ? "1 passage" : `${count} passages`);

async function listCollections() {
  try {
    const { collections } = await api("/api/collections");
    const chosen = $("collection").value;
    $("collection").replaceChildren(node("option", { value: "" }, "none"), ...collections.map((name) => node("option", { value: name }, name)));
    $("collection").value = collections.includes(chosen) ? chosen : "";
    $("collections").replaceChildren(...collections.map((name) => node("option", { value: name })));
  } catch { /* without documents the chat still works */ }
}

async function listDocuments() {
  const name = $("documents-collection").value.trim();
  if (!name) { $("documents").replaceChildren(); return; }
  try {
    const { documents } = await api(`/api/documents?collection=${encodeURIComponent(name)}`);
    $("documents").replaceChildren(...documents.map((one) => node("li", {},
      node("span", { className: "name", title: one.name }, one.name), node("small", {}, passages(one.passages)),
      node("button", { type: "button", className: "quiet", "aria-label": `Delete ${one.name}`, onclick: () => removeDocument(name, one) }, "Delete"))));
  } catch (error) {
    $("documents").replaceChildren();
    // A collection that is not there yet has no documents, and that is no error.
    if (error.status !== 404) $("documents-said").textContent = error.message;
  }
}

async function removeDocument(collection, one) {
  try {
    await api(`/api/documents/${one.id}?collection=${encodeURIComponent(collection)}`, { method: "DELETE" });
    $("documents-said").textContent = `${one.name} is deleted.`;
  } catch (error) {
    $("documents-said").textContent = error.message;
    return;
  }
  await listDocuments();
}

async function upload() {
  const collection = $("documents-collection").value.trim() || "documents";
  $("documents-collection").value = collection;
  for (const file of $("file").files) {
    $("documents-said").textContent = `Reading ${file.name}…`;
    const form = new FormData();
    form.append("file", file);
    form.append("collection", collection);
    try {
      const made = await api("/api/documents", { method: "POST", body: form });
      $("documents-said").textContent = `${made.name}: ${passages(made.passages)} ready.`;
    } catch (error) {
      $("documents-said").textContent = error.message;
    }
  }
  $("file").value = "";
  await listCollections();
  await listDocuments();
}

$("open-documents").addEventListener("click", () => {
  toggleSide(false);
  $("documents-collection").value ||= $("collection").value;
  $("documents-dialog").showModal();
  listDocuments();
});
$("documents-close").addEventListener("click", () => $("documents-dialog").close());
$("documents-collection").addEventListener("change", listDocuments);
$("file").addEventListener("change", upload);

// --- the state of the service ----------------------------------------------------------------------------------------------
async function look() {
  let state = "away";
  let said = "not reachable";
  try {
    const found = await (await fetch("/api/status")).json();
    state = found.state;
    said = state === "ok" ? found.model || "ready" : "servers are being replaced";
  } catch { /* said already */ }
  $("state").className = state;
  $("state-text").textContent = said;
}

const empty = $("empty");
$("ideas").append(...IDEAS.map((idea) => node("button", { type: "button", onclick: () => send(idea) }, idea)));
look();
setInterval(look, 15000);
listCollections();
fresh();
