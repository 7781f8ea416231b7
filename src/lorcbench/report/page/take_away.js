// The budget field: which cells it lets through, and which of them is best (the rules of lorcbench.report.budget). Unless the
// box is ticked, only the best are shown: of a budget that is typed, or of each usual one.

(function () {
  var box = document.getElementById("budget");
  if (!box) { return; }
  var units = new Map(Object.entries(JSON.parse(box.dataset.units))), sizes = box.dataset.sizes.split(" ");
  var input = document.getElementById("budget-field"), all = document.getElementById("budget-all");
  var says = box.querySelector("output");
  var rows = Array.from(document.getElementById("choices").tBodies[0].rows);
  function apply() {
    var text = input.value.trim().toLowerCase(), match = /^(\d+(?:\.\d*)?|\.\d+)\s*([a-z%]*)/.exec(text);
    var unit = match && match[0] === text ? units.get(match[2]) : undefined, best = {}, within = 0;
    input.setAttribute("aria-invalid", String(text !== "" && !unit));
    rows.forEach(function (row) {
      var value = unit && row.dataset[unit[0]], front = row.dataset.front;
      if (unit) { row.hidden = value === "" || Number(value) > Number(match[1]) * unit[1]; }
      else { row.hidden = !all.checked && !("usual" in row.dataset); }
      row.querySelector(".chip").hidden = true;
      if (row.hidden || !unit) { return; }
      within += 1;
      var by = sizes.includes(unit[0]) ? "ppl" : "bits_per_weight";
      if (!best[front] || Number(row.dataset[by]) < Number(best[front].dataset[by])) { best[front] = row; }
    });
    if (unit && !all.checked) { rows.forEach(function (row) { row.hidden = best[row.dataset.front] !== row; }); }
    Object.keys(best).forEach(function (front) { best[front].querySelector(".chip").hidden = false; });
    if (unit) { says.textContent = within + " of " + rows.length + " cells are within it"; }
    else { says.textContent = text === "" ? "" : "Expected " + box.dataset.expected + "."; }
    markBoxes();
  }
  function changed() { address.set({ budget: input.value.trim(), "budget-all": all.checked ? "yes" : "" }); apply(); }
  input.addEventListener("input", changed);
  all.addEventListener("change", changed);
  address.onOpen(function () {
    input.value = address.get("budget");
    all.checked = address.get("budget-all") === "yes";
    apply();
  });
})();
