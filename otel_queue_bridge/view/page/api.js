// Asking the server, and hearing from it.

const PATIENCE = 2000;

// The error has the HTTP status, unless the server does not answer at all.
export async function ask(path) {
  const response = await fetch(path);
  const found = await response.json();
  if (!response.ok) throw Object.assign(new Error(found.error), { status: response.status });
  return found;
}

// Load, and then hear of each changed trace that matches the query, until the returned function is
// called; all over again after the connection was lost, since the server may be another one by then.
// `load` returns the sequence up to which it has seen all, or null if the query was refused. A view follows once: browsers allow six
// connections. The server's status comes this way, too, and is passed on as an event of the document.
export function follow(query, load, changed) {
  let source = null;
  let timer = null;
  let left = false;

  async function begin() {
    try {
      const sequence = await load();
      if (left || sequence === null) return;
      source = new EventSource(`/api/events?${query}${sequence === undefined ? "" : `&after=${sequence}`}`);
      source.addEventListener("trace", (event) => changed(JSON.parse(event.data)));
      source.addEventListener("status", (event) => tell(JSON.parse(event.data)));
      source.addEventListener("error", again);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // fetch says so that nobody answers
      again();
    }
  }

  function again() {
    source?.close();
    if (left) return;
    document.dispatchEvent(new CustomEvent("lost"));
    timer = setTimeout(begin, PATIENCE);
  }

  begin();
  return () => {
    left = true;
    clearTimeout(timer);
    source?.close();
  };
}

export const tell = (status) => document.dispatchEvent(new CustomEvent("status", { detail: status }));
