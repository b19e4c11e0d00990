// The page of s2connect, kept live: the server sends the parts that changed, as HTML that it has escaped. Everything
// works without this file, too; then the page shows the moment at which it was loaded.
"use strict";

(() => {
  const live = document.body.dataset.live;

  // Text of a length of time, as the server writes it.
  function span(seconds) {
    for (const [length, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
      if (seconds >= length) return `${Math.round(seconds / length)} ${unit}`;
    }
    return `${Math.max(0, Math.round(seconds))} s`;
  }

  // `data-at` and `data-until` are times in seconds since the epoch, by the clock of the server.
  let offset = Number(document.body.dataset.now ?? Date.now() / 1000) - Date.now() / 1000;
  function tick() {
    const now = Date.now() / 1000 + offset;
    for (const one of document.querySelectorAll("[data-at], [data-until]")) {
      const passed = now - Number(one.dataset.at ?? one.dataset.until);
      const shown = one.dataset.until ? left(-passed) : passed < -0.5 ? `in ${span(-passed)}` : `${span(passed)} ago`;
      if (one.textContent !== shown) one.textContent = shown;
    }
  }

  function left(seconds) {
    const whole = Math.max(0, Math.ceil(seconds));
    return whole >= 60 ? `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")} min` : `${whole} s`;
  }

  // Makes `from` the same as `to`, and touches nothing that is the same: focus, selection and open details stay.
  function morph(from, to) {
    if (from.isEqualNode(to)) return;
    if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName || from.id !== to.id) {
      from.replaceWith(to);
      return;
    }
    if (from.nodeType !== Node.ELEMENT_NODE) {
      from.nodeValue = to.nodeValue;
      return;
    }
    for (const { name } of [...from.attributes]) {
      if (!to.hasAttribute(name) && !(name === "open" && from.nodeName === "DETAILS")) from.removeAttribute(name);
    }
    for (const { name, value } of to.attributes) {
      if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    }
    if (from.hasAttribute("data-at") || from.hasAttribute("data-until")) return; // the clock writes its text
    morphChildren(from, to);
  }

  function morphChildren(from, to) {
    const known = new Map();
    for (const child of from.children) if (child.id) known.set(child.id, child);
    let next = from.firstChild;
    for (const wanted of [...to.childNodes]) {
      const same = wanted.id ? known.get(wanted.id) : null;
      if (same) {
        if (same === next) next = next.nextSibling;
        else from.insertBefore(same, next);
        morph(same, wanted);
      } else if (next && !wanted.id && !next.id) {
        const after = next.nextSibling;
        morph(next, wanted);
        next = after;
      } else {
        from.insertBefore(wanted, next);
      }
    }
    while (next) {
      const after = next.nextSibling;
      next.remove();
      next = after;
    }
  }

  const template = document.createElement("template");
  const paused = new Set();
  const wanted = new Set(); // parts that are paused, and shown once for another filter
  function show({ now, title, parts }) {
    offset = now - Date.now() / 1000;
    document.title = `${title} · S2 Connect`;
    const focused = document.activeElement;
    for (const [name, html] of Object.entries(parts)) {
      const from = document.getElementById(name);
      if (!from || (paused.has(name) && !wanted.delete(name))) continue;
      template.innerHTML = html;
      const to = template.content.firstElementChild;
      if (to) morph(from, to);
    }
    // What was moved has lost it.
    if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
    tick();
    announce();
  }

  // Says aloud when the number of connected peers changes, at most every few seconds.
  let said = "";
  let saying = 0;
  function announce() {
    const news = document.getElementById("news");
    const text = document.getElementById("summary")?.textContent.trim() ?? "";
    if (!news || saying || text === said) return;
    const first = said === "";
    said = text;
    if (first) return;
    saying = setTimeout(() => {
      saying = 0;
      news.textContent = said;
      announce();
    }, 2000);
  }

  const queries = document.querySelectorAll("input[data-query]");
  let source = null;
  let lostTimer = 0;
  function listen() {
    source?.close();
    const query = new URLSearchParams();
    for (const one of queries) if (one.type === "checkbox" ? one.checked : one.value) query.set(one.dataset.query, one.value);
    source = new EventSource(query.size ? `${live}?${query}` : live);
    source.addEventListener("parts", (event) => {
      // Not with "open", after which the service may fail; a stream begins with every part.
      clearTimeout(lostTimer);
      lostTimer = 0;
      setLost(false);
      show(JSON.parse(event.data));
    });
    source.addEventListener("leave", () => location.reload());
    source.addEventListener("error", () => {
      if (!document.hidden) lostTimer ||= setTimeout(() => setLost(true), 3000);
      // A browser gives up where the answer was no stream, as after a restart that ended the log-in.
      if (source.readyState === EventSource.CLOSED) setTimeout(() => fetch(live, { method: "HEAD" }).then(
        (answer) => (answer.status === 401 || answer.redirected ? location.reload() : listen()), listen), 3000);
    });
  }

  function setLost(lost) {
    const note = document.getElementById("lost");
    if (note) note.hidden = !lost;
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-copy], button[data-pause]");
    if (button?.dataset.copy) {
      navigator.clipboard.writeText(button.dataset.copy).then(() => (button.textContent = "Copied"));
    } else if (button) {
      const stopped = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(stopped));
      button.textContent = stopped ? "Go on" : "Pause";
      if (stopped) paused.add(button.dataset.pause);
      else {
        paused.delete(button.dataset.pause);
        listen(); // begins with every part
      }
    }
  });

  // The text of a QR code, pasted as the address, is address and code.
  const address = document.getElementById("url");
  address?.addEventListener("input", () => {
    const [url, ...code] = address.value.trim().split(/\s+/);
    if (!code.length || !/^https:/.test(url)) return;
    address.value = url;
    document.getElementById("pairing-code").value = code.join(" ");
  });

  // A form is sent once; what it does may take some seconds.
  document.addEventListener("submit", (event) => {
    for (const button of event.target.querySelectorAll("button:not([type=button])")) {
      if (button.dataset.busy) button.textContent = button.dataset.busy;
      setTimeout(() => (button.disabled = true));
    }
  });
  // What was done is said once, not with every time the page is loaded again.
  if (new URLSearchParams(location.search).has("said")) history.replaceState(null, "", location.pathname + location.hash);
  window.addEventListener("pageshow", (event) => event.persisted && location.reload());

  document.documentElement.classList.add("live");
  if (navigator.clipboard) document.documentElement.classList.add("copies"); // browsers have none without TLS
  tick();
  setInterval(tick, 1000);
  if (live) {
    said = document.getElementById("summary")?.textContent.trim() ?? "";
    let typing = 0;
    for (const one of queries) {
      one.addEventListener("input", () => {
        clearTimeout(typing);
        typing = setTimeout(() => {
          for (const name of paused) wanted.add(name);
          listen();
        }, 400);
      });
    }
    listen();
    // A browser has few connections to one server: a tab that nobody sees gives its one back.
    let unseen = 0;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(unseen);
      if (document.hidden) unseen = setTimeout(() => source.close(), 30000);
      else if (source.readyState === EventSource.CLOSED) listen();
    });
  }
})();
