// The budget field: which cells it lets through, and which of them is best (the rules of lorcbench.report.budget).

(function () {
  var box = document.getElementById("budget");
  if (!box) { return; }
  var units = new Map(Object.entries(JSON.parse(box.dataset.units))), sizes = box.dataset.sizes.split(" ");
  var input = box.querySelector("input"), says = box.querySelector("output");
  var rows = Array.from(document.getElementById("choices").tBodies[0].rows);
  function apply() {
    var text = input.value.trim().toLowerCase(), match = /^(\d+(?:\.\d*)?|\.\d+)\s*([a-z%]*)/.exec(text);
    var unit = match && match[0] === text ? units.get(match[2]) : undefined, best = {}, shown = 0;
    input.setAttribute("aria-invalid", String(text !== "" && !unit));
    rows.forEach(function (row) {
      var value = unit && row.dataset[unit[0]], front = row.dataset.front;
      row.hidden = Boolean(unit) && (value === "" || Number(value) > Number(match[1]) * unit[1]);
      row.querySelector(".chip").hidden = true;
      if (row.hidden || !unit) { return; }
      shown += 1;
      var by = sizes.includes(unit[0]) ? "ppl" : "bits_per_weight";
      if (!best[front] || Number(row.dataset[by]) < Number(best[front].dataset[by])) { best[front] = row; }
    });
    Object.keys(best).forEach(function (front) { best[front].querySelector(".chip").hidden = false; });
    if (unit) { says.textContent = shown + " of " + rows.length + " cells"; }
    else { says.textContent = text === "" ? "" : "Expected " + box.dataset.expected + "."; }
    markBoxes();
  }
  input.addEventListener("input", function () { address.set({ budget: input.value.trim() }); apply(); });
  address.onOpen(function () { input.value = address.get("budget"); apply(); });
})();
