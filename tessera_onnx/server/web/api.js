// Requests to this server. The key, if it wants one, is held in this module and nowhere else.

import { find } from "./dom.js";

let key = "";
let asking = null; // the promise of a key that is being typed

export class ServerError extends Error {}

export function get(path, signal) {
  return ask(path, { method: "GET", signal });
}

/** The JSON that answers a JSON body. */
export function post(path, body, signal) {
  const headers = { "content-type": "application/json" };
  return ask(path, { method: "POST", body: JSON.stringify(body), headers, signal });
}

async function ask(path, request) {
  for (;;) {
    const used = key;
    const answer = await send(path, request, used);
    if (answer.ok) return answer.json();
    const fault = await sentence(answer);
    if (answer.status !== 401) throw new ServerError(fault);
    // Another request may have been given a key while this one was on its way.
    if (used === key) await askForKey(used ? fault : "");
  }
}

async function send(path, request, used) {
  const headers = { ...request.headers };
  if (used) headers.authorization = `Bearer ${used}`;
  try {
    return await fetch(path, { ...request, headers, credentials: "omit", cache: "no-store" });
  } catch (reason) {
    if (reason.name === "AbortError") throw reason;
    throw new ServerError("The server does not answer. Is it still running?");
  }
}

async function sentence(answer) {
  const found = await answer.json().catch(() => null);
  return typeof found?.error === "string" ? found.error : `The server answered ${answer.status}.`;
}

/** Ask for a key in a dialog, once for all requests that wait for it. */
function askForKey(fault) {
  asking ??= new Promise((resolve, reject) => {
    const [dialog, form, input] = ["key", "key-form", "key-value"].map(find);
    const error = find("key-error");
    error.textContent = fault;
    error.hidden = !fault;
    input.value = "";
    const events = new AbortController();
    const { signal } = events;
    const close = (settle) => {
      events.abort();
      asking = null;
      dialog.close();
      settle();
    };
    const give = (event) => {
      event.preventDefault();
      key = input.value.trim();
      close(resolve);
    };
    const leave = (event) => {
      event.preventDefault();
      close(() => reject(new ServerError("This server asks for a key: send again to give one.")));
    };
    form.addEventListener("submit", give, { signal });
    dialog.addEventListener("cancel", leave, { signal });
    find("key-cancel").addEventListener("click", leave, { signal });
    dialog.showModal();
    input.focus();
  });
  return asking;
}
