// Keeps the page for when there is no network, and gives it the headers that let it use threads.
const fresh = (request) => fetch(request, { cache: "no-cache" });

self.addEventListener("install", (event) => {
  const keep = async () => {
    const cache = await caches.open(VERSION);
    // settled: a folder of one's own has other files
    await Promise.allSettled(["./", ...FILES].map((file) => cache.add(file)));
  };
  event.waitUntil(keep().then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const forget = async () => {
    const old = (await caches.keys()).filter((name) => name !== VERSION);
    await Promise.all(old.map((name) => caches.delete(name)));
  };
  event.waitUntil(forget().then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET") return;
  event.respondWith(answer(event.request).then(isolated));
});

// Files under assets/ carry their content's hash in their names; all else may have changed.
async function answer(request) {
  const kept = () => caches.match(request, { ignoreSearch: true });
  if (new URL(request.url).pathname.includes("/assets/")) return (await kept()) ?? fetch(request);
  try {
    const response = await fresh(request);
    if (response.ok) await (await caches.open(VERSION)).put(request, response.clone());
    return response;
  } catch (error) {
    return (await kept()) ?? Promise.reject(error);
  }
}

function isolated(response) {
  if (response.status === 0) return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
