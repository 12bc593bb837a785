// A chat window for other sites: <script src="https://LLM/widget.js" data-title="Ask us" defer></script>
// It lives in a shadow tree of its own, so neither page changes the other's looks, and shows text as text.
(() => {
  "use strict";
  const script = document.currentScript;
  const server = new URL(script.src).origin;
  const title = script.dataset.title || "Ask us";
  const STYLE = `
    :host { all: initial; position: fixed; right: 16px; bottom: 16px; z-index: 2147483000; font: 15px/1.5 system-ui, sans-serif;
      --paper: #fff; --ink: #1f2421; --soft: #5c645f; --line: #dedbd2; --accent: #2f6f5e; --on: #fff; --tint: #e3efea; }
    @media (prefers-color-scheme: dark) { :host { --paper: #202423; --ink: #e9ebe9; --soft: #a2aaa6; --line: #3b4240; --accent: #7cc5ad;
      --on: #0e1a16; --tint: #22352f; } }
    button, input { font: inherit; color: inherit; }
    button { cursor: pointer; border: 0; border-radius: 999px; background: var(--accent); color: var(--on); padding: 12px 20px; font-weight: 600; }
    :focus-visible { outline: 3px solid #1a66d6; outline-offset: 2px; }
    .open { box-shadow: 0 4px 18px rgb(0 0 0 / 25%); }
    .panel { width: min(370px, calc(100vw - 32px)); height: min(540px, calc(100vh - 32px)); display: flex; flex-direction: column; background: var(--paper);
      color: var(--ink); border: 1px solid var(--line); border-radius: 16px; box-shadow: 0 8px 40px rgb(0 0 0 / 30%); overflow: hidden; }
    [hidden] { display: none !important; }
    .head { display: flex; justify-content: space-between; align-items: center; padding: 8px 8px 8px 16px; border-bottom: 1px solid var(--line); font-weight: 600; }
    .head button { background: none; color: var(--soft); padding: 6px 12px; }
    .log { flex: 1; overflow-y: auto; padding: 14px; display: flex; flex-direction: column; gap: 10px; }
    .turn { white-space: pre-wrap; overflow-wrap: anywhere; }
    .user { align-self: flex-end; background: var(--tint); border-radius: 14px 14px 4px 14px; padding: 8px 12px; max-width: 85%; }
    .said { color: var(--soft); font-size: 13px; }
    form { display: flex; gap: 8px; padding: 10px; border-top: 1px solid var(--line); }
    input { flex: 1; min-width: 0; border: 1px solid var(--line); border-radius: 999px; padding: 8px 14px; background: none; }
    form button { padding: 8px 16px; }`;
  const node = (tag, className, text = "") => Object.assign(document.createElement(tag), { className, textContent: text });
  const host = document.createElement("div");
  const root = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(STYLE);
  root.adoptedStyleSheets = [sheet];
  const open = node("button", "open", title);
  const panel = node("section", "panel");
  panel.setAttribute("role", "dialog");
  panel.setAttribute("aria-label", title);
  panel.hidden = true;
  const head = node("div", "head", title);
  const close = node("button", "", "✕");
  close.setAttribute("aria-label", "Close");
  head.append(close);
  const log = node("div", "log");
  log.setAttribute("role", "log");
  const form = node("form", "");
  const input = Object.assign(node("input", ""), { placeholder: "Your question", ariaLabel: "Your question", maxLength: 2000, autocomplete: "off" });
  const send = node("button", "", "Send");
  form.append(input, send);
  panel.append(head, log, form);
  root.append(open, panel);
  const history = [];
  const show = (shown) => { panel.hidden = !shown; open.hidden = shown; (shown ? input : open).focus(); };
  open.addEventListener("click", () => show(true));
  close.addEventListener("click", () => show(false));
  panel.addEventListener("keydown", (event) => { if (event.key === "Escape") show(false); });

  async function ask(message) {
    log.append(node("div", "turn user", message));
    const turn = node("div", "turn", "");
    const said = node("div", "said", "…");
    log.append(turn, said);
    const body = JSON.stringify({ message, history: history.slice(-10) });
    const handle = (name, data) => {
      if (name === "token") { turn.append(data.text); said.textContent = ""; }
      if (name === "sources") said.textContent = "";
      if (name === "notice") said.textContent = "One moment, another server takes over…";
      if (name === "continued") said.textContent = "";
      if (name === "error") said.textContent = data.message;
      log.scrollTop = log.scrollHeight;
    };
    try {
      const answer = await fetch(`${server}/widget/chat`, { method: "POST", body, headers: { "Content-Type": "application/json" } });
      if (!answer.ok) throw new Error((await answer.json()).error.message);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let held = "", got = await reader.read(); !got.done; got = await reader.read()) {
        const blocks = (held + got.value).split("\n\n");
        held = blocks.pop();
        for (const block of blocks) {
          const [first, second] = block.split("\n");
          if (first.startsWith("event: ")) handle(first.slice(7), JSON.parse(second.slice(6)));
        }
      }
      history.push({ role: "user", content: message }, { role: "assistant", content: turn.textContent });
    } catch (error) {
      said.textContent = error.message || "No answer. Try again.";
    }
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const message = input.value.trim();
    if (!message || send.disabled) return;
    input.value = "";
    send.disabled = true;
    await ask(message);
    send.disabled = false;
    input.focus();
  });
  document.body.append(host);
})();
