"use strict";
// What several parts of the page share: making elements, the one dialog, the state in the address, printing.

function add(parent, tag, text, css) {
  var element = parent.appendChild(document.createElement(tag));
  if (text !== undefined) { element.textContent = text; }
  if (css) { element.className = css; }
  return element;
}

// The dialog, emptied: returns its body. Esc, its button, and a click beside it close it.
var dialog = document.querySelector("dialog");
function openDialog(title) {
  var body = dialog.querySelector(".body");
  dialog.querySelector("h2").textContent = title;
  body.replaceChildren();
  dialog.showModal();
  body.scrollTop = 0;
  return body;
}
dialog.querySelector("button").addEventListener("click", function () { dialog.close(); });
dialog.addEventListener("click", function (event) { if (event.target === dialog) { dialog.close(); } });

// What a reader chose, as the fragment of the address: #?key=value&key=value. An anchor such as #cells is left alone.
var address = {
  parameters: function () { return new URLSearchParams(location.hash.startsWith("#?") ? location.hash.slice(2) : ""); },
  get: function (key) { return this.parameters().get(key) || ""; },
  set: function (values) {
    var parameters = this.parameters();
    Object.keys(values).forEach(function (key) {
      if (values[key]) { parameters.set(key, values[key]); } else { parameters.delete(key); }
    });
    var text = parameters.toString();
    if (text || location.hash.startsWith("#?")) {
      history.replaceState(null, "", text ? "#?" + text : location.pathname + location.search);
    }
  },
  onOpen: function (restore) {  // now, and whenever another address is opened in this window
    restore();
    window.addEventListener("hashchange", function () { if (location.hash.startsWith("#?")) { restore(); } });
  }
};

// A box that does not scroll is no stop of the keyboard.
function markBoxes() {
  document.querySelectorAll("[role=region][aria-label]").forEach(function (box) {
    if (box.scrollHeight > box.clientHeight + 1 || box.scrollWidth > box.clientWidth + 1) { box.tabIndex = 0; }
    else { box.removeAttribute("tabindex"); }
  });
}
window.addEventListener("resize", markBoxes);
window.addEventListener("load", markBoxes);
