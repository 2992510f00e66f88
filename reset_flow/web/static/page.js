"use strict";
// The page is complete without this: it adds countdowns, local times, rule ticks, and forms that outlive a lost connection.
(() => {
  const texts = document.body.dataset;
  const [live, net] = ["live", "net"].map((id) => document.getElementById(id));
  const page = () => document.querySelector("main");
  const all = (selector) => document.querySelectorAll(selector);
  const SENDING = 60_000;
  const MINUTE = 60_000;
  const SOON = 2 * MINUTE;
  let ahead = 0; // of the server's clock to that of the device
  let sending = null;
  let left = []; // minutes of which to tell that only they are left

  const now = () => Date.now() + ahead;
  const lang = () => {
    const chosen = document.documentElement.lang;
    return navigator.language.startsWith(chosen) ? navigator.language : chosen;
  };

  function say(text) {
    live.textContent = "";
    setTimeout(() => (live.textContent = text), 100); // a change is what is read out
  }

  // Times

  function clock(at) {
    const sameDay = new Date(at).toDateString() === new Date(now()).toDateString();
    const form = { hour: "numeric", minute: "2-digit", ...(!sameDay && { weekday: "long" }) };
    return new Intl.DateTimeFormat(lang(), form).format(at);
  }

  function relative(length) {
    if (length > -1000 && length < 1000) return new Intl.RelativeTimeFormat(lang(), { numeric: "auto" }).format(0, "second");
    const units = [[86_400, "day"], [3_600, "hour"], [60, "minute"], [1, "second"]];
    const [size, unit] = units.find(([size]) => Math.abs(length) >= size * 1000);
    return new Intl.RelativeTimeFormat(lang()).format(Math.ceil(length / (size * 1000)), unit);
  }

  function tick() {
    for (const time of all("time")) {
      const at = Date.parse(time.dateTime);
      if ("at" in time.dataset) time.textContent = clock(at);
      if ("ago" in time.dataset) time.textContent = relative(Math.min(at - now(), -MINUTE));
      if ("in" in time.dataset) time.textContent = relative(Math.max(at - now(), 0)) + (at - now() > SOON ? ` (${clock(at)})` : "");
    }
    for (const button of all("[data-from]")) count(button, Math.ceil((Date.parse(button.dataset.from) - now()) / 1000));
    if (!page().dataset.ends) return;
    const minutes = (Date.parse(page().dataset.ends) - now()) / MINUTE;
    while (left.length && minutes <= left[0]) say(page().dataset[`ends-${left.shift()}`]);
  }

  // Only what is seen counts down: whoever listens is told once, when it is over.
  function count(button, seconds) {
    if (seconds <= 0) {
      delete button.dataset.from;
      button.removeAttribute("aria-disabled");
      button.textContent = button.dataset.label;
      return say(button.dataset.told);
    }
    if (!button.querySelector("[aria-hidden]")) {
      button.setAttribute("aria-disabled", "true");
      const seen = document.createElement("span");
      const heard = document.createElement("span");
      seen.setAttribute("aria-hidden", "true");
      heard.className = "unseen";
      heard.append(...button.childNodes);
      button.replaceChildren(seen, heard);
    }
    const time = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    button.firstChild.textContent = button.dataset.in.replace("{time}", time);
  }

  // Forms. `once` makes a form that is sent again the same command.

  function work(button) {
    if (!button?.dataset.working) return;
    button.dataset.idle = button.textContent;
    button.textContent = button.dataset.working;
    button.setAttribute("aria-disabled", "true");
  }

  function idle() {
    sending = null;
    for (const button of all("[data-idle]")) {
      button.textContent = button.dataset.idle;
      button.removeAttribute("aria-disabled");
      delete button.dataset.idle;
    }
  }

  function lost(wait) {
    const again = document.createElement("button");
    again.type = "button";
    again.textContent = texts.retry;
    if (!net.firstChild) net.append(Object.assign(document.createElement("p"), { textContent: texts.lost }), again);
    return new Promise((resolve) => {
      net.querySelector("button").onclick = resolve;
      addEventListener("online", resolve, { once: true });
      setTimeout(resolve, wait);
    });
  }

  function found() {
    if (!net.firstChild) return;
    net.replaceChildren();
    say(texts.back);
  }

  async function get(url, options) {
    const reply = await fetch(url, { ...options, signal: AbortSignal.timeout(SENDING) });
    const fresh = new DOMParser().parseFromString(await reply.text(), "text/html");
    if (!fresh.querySelector("main[data-now]")) throw new Error("not a page of ours");
    return [fresh, reply];
  }

  async function send(form, button) {
    const body = new URLSearchParams(new FormData(form));
    sending = form;
    work(button);
    for (let wait = 1000; sending === form; wait = Math.min(2 * wait, 15_000)) {
      try {
        const [fresh, reply] = await get(form.getAttribute("action"), { method: "POST", body });
        found();
        return show(fresh, reply.redirected ? reply.url : location.href);
      } catch {
        await lost(wait);
      }
    }
  }

  function show(fresh, url) {
    // Back shows where the reset stands, as it does without this. It also tells password managers that the form was taken.
    const title = (page) => page.querySelector("h1").textContent;
    history[title(fresh) === title(document) ? "replaceState" : "pushState"](null, "", url);
    if (fresh.querySelector("script").src !== document.querySelector("script").src) return location.reload();
    document.title = fresh.title;
    document.documentElement.lang = fresh.documentElement.lang;
    for (const part of ["header", "main"]) document.querySelector(part).replaceWith(fresh.querySelector(part));
    scrollTo(0, 0);
    begin();
    document.querySelector("[autofocus]").focus();
  }

  async function look(link) {
    for (let wait = 1000; ; wait = Math.min(2 * wait, 8000)) {
      await new Promise((resolve) => setTimeout(resolve, wait));
      if (!link.isConnected) return;
      const [fresh, reply] = await get(link.href).catch(() => []);
      if (fresh && !fresh.querySelector("[data-look]")) return show(fresh, reply.url);
    }
  }

  // Passwords. The rules are those of reset_flow/domain/password_rules.py, which have the last word.

  const letters = (text) => text.normalize("NFKC").toLowerCase().replace(/[^\p{L}\p{M}\p{N}\p{So}]/gu, " ");
  const bare = (text) => letters(text).replaceAll(" ", "");

  const RULES = {
    length: (password, rule) => [...password].length >= rule.dataset.least,
    login(password) {
      const login = document.getElementById("username").value;
      const words = letters(login).split(" ").filter((word) => word.length >= 4);
      const names = [bare(login), bare(login.slice(0, Math.max(0, login.lastIndexOf("@")))), ...words]
        .filter((name) => name.length >= (/^\p{Nd}*$/u.test(name) ? 4 : 2))
        .sort((one, other) => other.length - one.length);
      let [rest, longest] = [bare(password), 0];
      if (!rest || rest === bare(login) || (rest.length >= 4 && names.some((name) => name.includes(rest)))) return false;
      for (const name of names) {
        if (rest.includes(name)) longest ||= name.length;
        rest = rest.replaceAll(name, " ");
      }
      rest = rest.replaceAll(" ", "");
      return !longest || rest.length > 8 || rest.replace(/\p{Nd}/gu, "").length > Math.max(0, Math.min(3, longest - 3));
    },
  };

  function check(password) {
    for (const rule of all("[data-rule]")) {
      const met = RULES[rule.dataset.rule](password, rule);
      if (met === rule.classList.contains("met")) continue;
      rule.classList.toggle("met", met);
      const state = rule.querySelector("span") ?? rule.appendChild(Object.assign(document.createElement("span"), { className: "unseen" }));
      state.textContent = ` (${met ? rule.parentNode.dataset.met : rule.parentNode.dataset.open})`;
      say(rule.textContent);
    }
  }

  function toggle(button) {
    const field = document.getElementById(button.dataset.shows);
    const shows = field.type === "password";
    field.type = shows ? "text" : "password";
    button.setAttribute("aria-pressed", shows);
    button.textContent = shows ? button.dataset.hide : button.dataset.show;
  }

  function begin() {
    ahead = Date.parse(page().dataset.now) - Date.now();
    const minutes = (Date.parse(page().dataset.ends) - now()) / MINUTE;
    left = [5, 1, 0].filter((each) => each < minutes);
    sending = null;
    for (const button of all("[data-shows]")) button.hidden = false;
    for (const link of all("[data-look]")) look(link);
    tick();
  }

  document.addEventListener("submit", (event) => {
    if (event.target.closest(".languages")) return;
    event.preventDefault();
    if (!sending && event.submitter?.getAttribute("aria-disabled") !== "true") send(event.target, event.submitter);
  });
  document.addEventListener("input", (event) => event.target.id === "password" && check(event.target.value));
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-shows]");
    if (button) toggle(button);
    for (const menu of all(".languages[open]")) if (!menu.contains(event.target)) menu.open = false;
  });
  addEventListener("popstate", () => location.reload());
  addEventListener("pageshow", (event) => event.persisted && idle());
  setInterval(tick, 1000);
  begin();
})();
