// Addresses of images that an <img> can load. With a key they are fetched, because an <img> cannot send one.

const KEPT_MAX = 60; // object URLs hold their images in memory

export function createMediaUrls(api) {
  const urls = new Map(); // address -> promise of an object URL

  function clear() {
    for (const one of urls.values()) one.then(URL.revokeObjectURL, () => {});
    urls.clear();
  }

  return {
    clear,
    /** The URL of what is at `address`, from the service's root or as in the history. Raises ApiProblem. */
    of(address) {
      const path = address.replace(/^.*?(?=api\/media\/)/, ""); // the history's has the path prefix, the base has it, too
      if (!api.hasKey()) return Promise.resolve(new URL(path, api.base).href);
      let found = urls.get(path);
      if (!found) {
        found = api.open("GET", path).then((response) => response.blob()).then((blob) => URL.createObjectURL(blob));
        found.catch(() => urls.delete(path));
        urls.set(path, found);
        if (urls.size > KEPT_MAX) {
          const [oldest, url] = urls.entries().next().value;
          urls.delete(oldest);
          url.then(URL.revokeObjectURL, () => {});
        }
      }
      return found;
    },
  };
}
