// Reads server-sent events of a POST, which EventSource cannot send.

export class Refused extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Turn an HTTP answer that is no success into an error with the server's own words. */
export async function refused(answer) {
  let message = `The service answered with status ${answer.status}.`;
  try {
    message = (await answer.json()).error.message;
  } catch { /* no JSON: the status has to do */ }
  return new Refused(answer.status, message, Number(answer.headers.get("Retry-After")) || 0);
}

/** Send a question and call handle(name, data) for each event. */
export async function ask(url, body, { headers = {}, signal, handle }) {
  const answer = await fetch(url, {
    method: "POST", signal, body: JSON.stringify(body), headers: { "Content-Type": "application/json", ...headers },
  });
  if (!answer.ok) throw await refused(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const blocks = held.split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const name = lines.find((line) => line.startsWith("event: "));
      const data = lines.find((line) => line.startsWith("data: "));
      if (name && data) handle(name.slice(7), JSON.parse(data.slice(6)));
    }
  }
}
