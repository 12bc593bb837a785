// Brings the view up to date, and says so when it is not: a page that stands still must not look like the present.
"use strict";
(() => {
  const fresh = Number(document.body.dataset.fresh) * 1000;
  const view = document.getElementById("view"), seen = document.getElementById("seen"), old = document.getElementById("old");
  let base = Date.now(), trouble = "";

  // When what is shown was seen, by this machine's clock alone; NaN when nothing was.
  const since = () => {
    const age = view.firstElementChild?.dataset.age;
    return age ? base - Number(age) * 1000 : NaN;
  };

  const words = (ms) => {
    const s = Math.max(0, Math.round(ms / 1000));
    return s < 120 ? `${s} s` : s < 7200 ? `${Math.floor(s / 60)} min` : `${Math.floor(s / 3600)} h`;
  };

  const tick = () => {
    const age = Date.now() - since();
    const known = !Number.isNaN(age);
    // A clock that was set back would make the view younger than it is.
    const stale = !known || age > fresh || age < -1000;
    seen.textContent = known ? `Seen ${words(age)} ago` : "";
    document.body.classList.toggle("old", stale);
    const text = stale && trouble ? `This page is not brought up to date: ${trouble}` : "";
    if ((old.firstChild?.textContent ?? "") !== text) {
      old.replaceChildren();
      if (text) old.appendChild(document.createElement("div")).textContent = text;
    }
    old.hidden = !text;
  };

  const renew = async () => {
    try {
      const answer = await fetch("/status/view", { cache: "no-store", signal: AbortSignal.timeout(8000) });
      if (!answer.ok) throw new Error(`the server said ${answer.status}`);
      const parsed = new DOMParser().parseFromString(await answer.text(), "text/html").body.firstElementChild;
      if (!parsed?.dataset || parsed.dataset.age === undefined) throw new Error("the server did not send a view");
      view.replaceChildren(parsed);
      base = Date.now();
      trouble = "";
    } catch (error) {
      trouble = error.name === "TimeoutError" ? "the server does not answer" : error instanceof TypeError ? "the server cannot be reached" : error.message;
    }
    tick();
  };

  setInterval(tick, 1000);
  setInterval(renew, 5000);
  // A page that was put away and is taken out again.
  document.addEventListener("visibilitychange", () => { tick(); if (!document.hidden) renew(); });
  window.addEventListener("pageshow", () => { tick(); renew(); });
})();
