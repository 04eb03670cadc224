// The console's script. Every page works without it: it adds copy buttons, the price as one types, files that are dropped in,
// and pages that follow a running task.
"use strict";

const part = (url, options = {}) =>
  fetch(url, { ...options, headers: { "X-Tollgate-Part": "yes" }, credentials: "same-origin", redirect: "manual" });

// Copy buttons.
for (const button of document.querySelectorAll("[data-copy]")) button.hidden = !navigator.clipboard;
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  const text = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = text; }, 1500);
});

// A form that buys or changes something is sent once; it can be used again when the browser comes back to the page.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  if (form.dataset.sent) return event.preventDefault();
  form.dataset.sent = "yes";
  setTimeout(() => { for (const button of form.querySelectorAll("button")) button.disabled = true; });
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) {
    delete form.dataset.sent;
    for (const button of form.querySelectorAll("button")) button.disabled = false;
  }
});

// A part of the page that follows something: asked for again until it does not say so any more, or until so many seconds have
// passed as it says; less and less often.
let followed = 0;
const follow = () => {
  const live = document.querySelector("[data-poll]");
  if (!live) return;
  const pause = Math.min(2 + followed / 60, 15);
  if (followed > Number(live.dataset.poll)) {
    const told = document.createElement("p");
    told.className = "notice";
    told.append("This page has stopped looking by itself. ");
    const again = document.createElement("button");
    again.type = "button";
    again.textContent = "Look again";
    again.addEventListener("click", () => location.reload());
    told.append(again);
    live.prepend(told);
    return;
  }
  setTimeout(async () => {
    followed += pause;
    if (document.hidden) return follow();
    try {
      const answer = await part(location.href);
      // The session has ended: nothing is to be followed any more.
      if (answer.type === "opaqueredirect") return location.reload();
      if (!answer.ok) throw answer.status;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById(live.id);
      if (!fresh) return location.reload();
      if (fresh.innerHTML !== live.innerHTML || !("poll" in fresh.dataset)) {
        const open = document.activeElement && live.contains(document.activeElement);
        if (!open || !("poll" in fresh.dataset)) live.replaceWith(fresh);
        watchVideos();
        for (const button of fresh.querySelectorAll("[data-copy]")) button.hidden = !navigator.clipboard;
      }
    } catch { /* tried again */ }
    follow();
  }, pause * 1000);
};
follow();

// A link that has died says so.
const watchVideos = () => {
  for (const video of document.querySelectorAll("video")) {
    video.addEventListener("error", () => {
      const told = document.createElement("p");
      told.textContent = "This video cannot be loaded. The video service keeps videos for a limited time; its link may have expired.";
      video.replaceWith(told);
    }, { once: true, capture: true });
  }
};
watchVideos();

// The price as one types. The answer has the promise that "Create" sends.
const form = document.querySelector("form[data-quote]");
if (form) {
  let waiting, asked = 0;
  const place = document.getElementById("price");
  const ask = async () => {
    const mine = ++asked;
    try {
      const answer = await part(form.dataset.quote, { method: "POST", body: new URLSearchParams(new FormData(form)) });
      const text = await answer.text();
      if (mine === asked) {
        const page = new DOMParser().parseFromString(text, "text/html");
        const fresh = page.getElementById("price");
        if (fresh) place.replaceChildren(...fresh.childNodes);
      }
    } catch { /* the button "Show the price" still works */ }
  };
  const soon = (event) => {
    if (event && event.target.name === "file") return;
    asked++;
    for (const button of place.querySelectorAll("[name=do][value=create]")) button.disabled = true;
    clearTimeout(waiting);
    waiting = setTimeout(ask, 350);
  };
  form.addEventListener("input", soon);
  form.addEventListener("tollgate:file", () => soon());
  form.querySelector("[name=type]").addEventListener("change", () => {
    const url = new URL(location.href);
    url.search = new URLSearchParams([...new FormData(form)].filter(([name, value]) => value && value.length < 2500 && !["key", "quote", "body", "do"].includes(name)));
    location.assign(url);
  });
  if (form.elements.prompt.value) ask();
}

// Files become data: URIs in the field that takes a URL.
for (const drop of document.querySelectorAll("[data-drop]")) {
  const field = drop.querySelector("input, textarea");
  const most = Number(drop.dataset.drop);
  const told = drop.querySelector("[data-told]");
  const take = (file) => {
    if (!file) return;
    if (file.size > most) { told.textContent = `${file.name} is too large: at most ${Math.floor(most / 1048576)} MB can be sent. Give its URL instead.`; return; }
    const reader = new FileReader();
    reader.onload = () => {
      field.value = field.tagName === "TEXTAREA" && field.value.trim() ? `${field.value.trim()}\n${reader.result}` : reader.result;
      told.textContent = `${file.name} is sent with the form.`;
      field.dispatchEvent(new CustomEvent("tollgate:file", { bubbles: true }));
    };
    reader.readAsDataURL(file);
  };
  const pick = document.createElement("input");
  pick.type = "file";
  pick.name = "file";
  pick.disabled = false;
  pick.accept = drop.dataset.accept;
  pick.setAttribute("aria-label", "Choose a file");
  pick.removeAttribute("name");
  pick.addEventListener("change", () => take(pick.files[0]));
  drop.append(pick);
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); take(event.dataTransfer.files[0]); });
}
