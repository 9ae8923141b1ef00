// Asking the server, and hearing from it.

export async function ask(path) {
  const response = await fetch(path);
  const found = await response.json();
  if (!response.ok) throw new Error(found.error);
  return found;
}

// Hear of changed traces until the returned function is called. A page holds one connection only:
// browsers allow six. Each status is passed on as an event of the document.
export function listen(query, changed) {
  const source = new EventSource(`/api/events?${query}`);
  source.addEventListener("trace", (event) => changed(JSON.parse(event.data)));
  source.addEventListener("status", (event) => tell(JSON.parse(event.data)));
  return () => source.close();
}

export const tell = (status) => document.dispatchEvent(new CustomEvent("status", { detail: status }));
