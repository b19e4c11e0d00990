// The token of a one-time link comes after the # of its address, so that it is in no log and no Referer.
"use strict";

(() => {
  function use() {
    const token = location.hash.slice(1);
    const form = document.getElementById("link");
    if (!token || !form) return;
    history.replaceState(null, "", location.pathname);
    form.elements.link.value = token;
    form.submit();
  }
  window.addEventListener("hashchange", use); // the link was pasted where this page is open
  use();
})();
