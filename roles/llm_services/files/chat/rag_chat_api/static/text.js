// Answers as nodes. Nothing here makes HTML of text: what a model or a document says is only ever shown.

/** Make an element with properties and children; a string becomes a text node. */
export function node(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** The inline parts of a line: code, bold, italics, citations like [1]. */
function inline(text, cite) {
  const parts = [];
  const pattern = /`([^`\n]+)`|\*\*([^*\n]+)\*\*|(?<![*\w])\*([^*\s][^*\n]*)\*(?!\w)|\[(\d{1,2})\]/g;
  let at = 0;
  for (const found of text.matchAll(pattern)) {
    parts.push(text.slice(at, found.index));
    if (found[1]) parts.push(node("code", {}, found[1]));
    else if (found[2]) parts.push(node("strong", {}, found[2]));
    else if (found[3]) parts.push(node("em", {}, found[3]));
    else parts.push((cite && cite(Number(found[4]))) || found[0]);
    at = found.index + found[0].length;
  }
  parts.push(text.slice(at));
  return parts;
}

function code(language, lines) {
  const text = lines.join("\n");
  const copy = node("button", { type: "button" }, "Copy");
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  });
  const head = node("div", { className: "code-head" }, node("span", {}, language || "text"), copy);
  return node("div", { className: "code" }, head, node("pre", { tabIndex: 0 }, node("code", {}, text)));
}

/** Markdown, as far as models use it, as a list of nodes. */
export function rendered(text, cite) {
  const nodes = [];
  let paragraph = [];
  let list = null;
  const flush = () => {
    if (paragraph.length) nodes.push(node("p", {}, ...inline(paragraph.join("\n"), cite)));
    paragraph = [];
    list = null;
  };
  const lines = text.split("\n");
  for (let at = 0; at < lines.length; at += 1) {
    const line = lines[at];
    const fence = line.match(/^\s*(```+|~~~+)\s*([\w+#.-]*)/);
    const heading = line.match(/^(#{1,6})\s+(.*)/);
    const item = line.match(/^\s*(?:[-*+]|(\d+)[.)])\s+(.*)/);
    if (fence) {
      flush();
      const inside = [];
      for (at += 1; at < lines.length && !lines[at].trim().startsWith(fence[1]); at += 1) inside.push(lines[at]);
      nodes.push(code(fence[2], inside));
    } else if (heading) {
      flush();
      nodes.push(node(heading[1].length < 3 ? "h3" : "h4", {}, ...inline(heading[2], cite)));
    } else if (item) {
      const kind = item[1] ? "OL" : "UL";
      if (!list || list.tagName !== kind) {
        flush();
        list = node(kind.toLowerCase());
        if (item[1]) list.start = Number(item[1]);
        nodes.push(list);
      }
      list.append(node("li", {}, ...inline(item[2], cite)));
    } else if (!line.trim()) {
      if (paragraph.length) flush();
    } else if (list && /^\s+\S/.test(line)) {
      list.lastChild.append(" ", ...inline(line.trim(), cite));
    } else {
      if (list) flush();
      paragraph.push(line);
    }
  }
  flush();
  return nodes;
}
