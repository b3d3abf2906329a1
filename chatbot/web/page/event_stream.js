// A parser of event streams (WHATWG HTML, 9.2.6), because EventSource cannot send a key. Pure but for its callbacks.

/**
 * Returns `push(text)`, which takes the stream in pieces of any size. `onEvent({data, id})`: `id` is the last one that
 * came, as with EventSource. `onRetry(milliseconds)`.
 */
export function createParser(onEvent, onRetry = () => {}) {
  let rest = "", id = "", data = [], isAfterCr = false;

  function takeLine(line) {
    if (line === "") {
      if (data.length) onEvent({ data: data.join("\n"), id });
      data = [];
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return; // a ping
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "data") data.push(value);
    else if (field === "id" && !value.includes("\0")) id = value;
    else if (field === "retry" && /^[0-9]+$/.test(value)) onRetry(Number(value));
  }

  return function push(text) {
    if (isAfterCr && text.startsWith("\n")) text = text.slice(1); // the other half of a CRLF that was split
    if (text) isAfterCr = text.endsWith("\r");
    const lines = (rest + text).split(/\r\n|\n|\r/);
    rest = lines.pop();
    lines.forEach(takeLine);
  };
}
