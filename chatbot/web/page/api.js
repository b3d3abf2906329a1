// The HTTP API as the page uses it: the key, the path prefix, problem details, uploads.

const TRANSIENT = new Set([408, 429, 500, 502, 503, 504]);

/** A refusal or failure. `name` is the type after /problems/; "network" (status 0) if there was no answer at all. */
export class ApiProblem extends Error {
  constructor({ status, name, title = "", detail = "", errors = [], retryAfter = null, requestId = "", body = {} }) {
    super(`${status} ${name}`);
    Object.assign(this, { status, name, title, detail, errors, retryAfter, requestId, body });
  }
}

/** Whether the same request may succeed later. */
export function isTransient(problem) {
  return problem.status === 0 || TRANSIENT.has(problem.status);
}

export function isAuthProblem(problem) {
  return problem.status === 401;
}

/**
 * `base`: the service's address with its path prefix and a slash behind. `readKey()`: the key, or null.
 */
export function createApi({ base, readKey = () => null, fetch = globalThis.fetch.bind(globalThis) }) {
  function headersWithKey(headers) {
    const key = readKey();
    return key ? { ...headers, Authorization: `Bearer ${key}` } : headers;
  }

  /** The response, once its headers are there. Raises ApiProblem. */
  async function open(method, path, { body, headers = {}, signal, keepalive = false } = {}) {
    let response;
    const sent = headersWithKey(body === undefined ? headers : { "Content-Type": "application/json", ...headers });
    try {
      response = await fetch(new URL(path, base).href, {
        method, signal, keepalive, headers: sent, cache: "no-store", credentials: "same-origin", redirect: "manual",
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch (fault) {
      if (signal?.aborted) throw fault;
      throw new ApiProblem({ status: 0, name: "network", detail: String(fault) });
    }
    if (response.type === "opaqueredirect") throw new ApiProblem({ status: 0, name: "redirected" }); // a proxy's login
    if (!response.ok) throw await problemOf(response);
    return response;
  }

  /** Whether the service answers at all. */
  async function isReachable() {
    try {
      await open("GET", "livez");
      return true;
    } catch (fault) {
      return fault.name !== "network";
    }
  }

  /** The JSON of the answer, null if it has none. Raises ApiProblem. */
  async function call(method, path, options) {
    const response = await open(method, path, options);
    if (response.status === 204) return null;
    try {
      return await response.json();
    } catch (fault) {
      if (options?.signal?.aborted) throw fault;
      throw new ApiProblem({ status: 0, name: "network", detail: String(fault) }); // cut in the middle of the answer
    }
  }

  /** A POST that takes effect once, however often it is sent: on a fault that passes it is sent again, 4 times at most. */
  async function callOnce(path, body, key, { headers = {}, signal } = {}) {
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await call("POST", path, { body, signal, headers: { ...headers, "Idempotency-Key": key } });
      } catch (fault) {
        if (!(fault instanceof ApiProblem) || !isTransient(fault) || fault.retryAfter > 5 || attempt === 3) throw fault;
        await new Promise((resolve) => setTimeout(resolve, (fault.retryAfter ?? 0.5 * 2 ** attempt) * 1000));
      }
    }
  }

  /** Uploads a file; `onProgress(share)` from 0 to 1. XMLHttpRequest, because fetch does not tell the progress. */
  function upload(file, { onProgress, signal }) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("POST", new URL("api/media", base).href);
      for (const [name, value] of Object.entries(headersWithKey({}))) request.setRequestHeader(name, value);
      request.setRequestHeader("Content-Type", "application/octet-stream");
      request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
      request.onerror = () => reject(new ApiProblem({ status: 0, name: "network" }));
      request.onabort = () => reject(new DOMException("aborted", "AbortError"));
      request.onload = () => {
        if (request.status >= 200 && request.status < 300) resolve(JSON.parse(request.responseText));
        else reject(problemFrom(request.status, request.responseText, (name) => request.getResponseHeader(name)));
      };
      signal?.addEventListener("abort", () => request.abort());
      request.send(file);
    });
  }

  return { base, open, call, callOnce, isReachable, upload, hasKey: () => Boolean(readKey()) };
}

async function problemOf(response) {
  const text = await response.text().catch(() => "");
  return problemFrom(response.status, text, (name) => response.headers.get(name));
}

/** The problem of an answer. A proxy's own error page has no problem details: its name is "http-error". */
export function problemFrom(status, text, header) {
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    // a proxy's page
  }
  const name = /\/problems\/([a-z-]+)$/.exec(body.type ?? "")?.[1] ?? (status === 401 ? "unauthorized" : "http-error");
  const seconds = Number(header("Retry-After"));
  return new ApiProblem({
    status, name, title: body.title, detail: body.detail, errors: body.errors, body,
    retryAfter: Number.isFinite(seconds) && seconds > 0 ? seconds : null,
    requestId: header("X-Request-ID") ?? "",
  });
}
