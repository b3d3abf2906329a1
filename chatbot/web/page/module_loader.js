// Modules that come after the first load. Older browsers do not try again to load a module that failed, nor one that
// imports it (https://github.com/whatwg/html/pull/10327). So the files are fetched first, which can be repeated, and
// import() takes them from the browser's cache.

const IMPORT = /^import\b[^"]*"(\.[^"]+)"/gm;
const RETRY_MS = 5_000;

/** Imports `path`, relative to this file. Raises an error if a file cannot be fetched; the same call may succeed later. */
export async function importModule(path) {
  await fetchWithImports(new URL(path, import.meta.url).href, new Set());
  return import(path);
}

/**
 * A module that is asked for until it has come: `load()` asks at once, and once more some seconds after each failure.
 * `onLoaded(module)` is called once, `onFailed()` after each failure. `isMissing`: whether the last attempt failed.
 */
export function createLateModule(path, { onLoaded, onFailed }) {
  const late = { isMissing: false, load };
  let timer = null, isLoading = false, isThere = false;

  async function load() {
    if (isLoading || isThere) return;
    clearTimeout(timer);
    isLoading = true;
    let module;
    try {
      module = await importModule(path);
    } catch {
      late.isMissing = true;
      timer = setTimeout(load, RETRY_MS);
      onFailed();
      return;
    } finally {
      isLoading = false;
    }
    isThere = true;
    late.isMissing = false;
    onLoaded(module);
  }

  return late;
}

async function fetchWithImports(url, known) {
  if (known.has(url)) return;
  known.add(url);
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${response.status} ${url}`);
  const imports = [...(await response.text()).matchAll(IMPORT)];
  await Promise.all(imports.map(([, path]) => fetchWithImports(new URL(path, url).href, known)));
}
