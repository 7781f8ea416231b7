// Tables whose rows are data (lorcbench.report.page.grid): 200 rows at a time, sorted, filtered, with columns to choose.

var STEP = 200, MENU = 200, LONG = 20;  // rows that are drawn at a time; words of a menu; letters from which on a name may break
var narrow = window.matchMedia("(max-width: 640px)"), order = new Intl.Collator("en", { numeric: true });

function textOf(entry) { return entry === undefined ? "" : typeof entry === "string" ? entry : entry.t; }
function withInterval(entry) { return textOf(entry) + (entry && entry.i ? " " + entry.i : ""); }
function allOf(entry) { return [withInterval(entry)].concat(entry && entry.s || []).join(" "); }

function Grid(table) {
  var data = JSON.parse(document.getElementById(table.id + "-data").textContent);
  this.table = table;
  this.columns = data.columns;
  this.rows = data.rows;
  this.classes = data.classes;
  this.controls = document.querySelector(".controls[data-table=" + table.id + "]");
  this.more = document.getElementById(table.id + "-more");
  this.haystacks = [];
  this.hidden = new Set();
  this.picked = [];
  this.sort = null;  // {column, down}
  this.makeControls();
  address.onOpen(this.restore.bind(this));
  narrow.addEventListener("change", this.layOut.bind(this));
  var grid = this;
  window.addEventListener("beforeprint", function () { grid.draw(Infinity); });
  window.addEventListener("afterprint", function () { grid.draw(STEP); });
}

// Controls: a box, a menu per column of few words, the columns, and what the rows are saved as.

Grid.prototype.makeControls = function () {
  var grid = this, tools = this.controls.querySelector(".tools");
  this.input = this.controls.querySelector("input");
  this.count = this.controls.querySelector("output");
  this.menus = [];
  this.columns.forEach(function (column, index) { if (!column.numeric) { grid.makeMenu(index); } });
  this.input.addEventListener("input", function () { grid.changed(); });
  var box = add(add(tools, "details"), "div");
  box.parentNode.insertBefore(document.createElement("summary"), box).textContent = "Columns";
  this.boxes = this.columns.map(function (column, index) {
    var label = add(box, "label"), input = add(label, "input");
    input.type = "checkbox";
    label.append(" " + column.name);
    input.addEventListener("change", function () {
      if (input.checked) { grid.hidden.delete(index); } else { grid.hidden.add(index); }
      grid.changed();
    });
    return input;
  });
  add(tools, "span", "Save these rows as", "soft");
  Object.keys(FORMATS).forEach(function (name) {
    add(tools, "button", name).type = "button";
    tools.lastChild.addEventListener("click", function () { save(grid, name); });
  });
  if (this.table.id === "cell-table") {
    this.pair = add(tools, "button", "Compare two cells");
    this.pair.type = "button";
    this.pair.addEventListener("click", function () { compare(grid); });
  }
  add(tools, "button", "Reset").type = "button";
  tools.lastChild.addEventListener("click", function () { grid.apply(new URLSearchParams()); grid.changed(); });
};

Grid.prototype.makeMenu = function (index) {
  var grid = this, values = new Set(this.rows.map(function (row) { return textOf(row[index]); }));
  values.delete("");
  if (values.size < 2 || values.size > MENU) { return; }
  var menu = document.createElement("select");
  menu.setAttribute("aria-label", "Only this " + this.columns[index].name);
  menu.dataset.column = index;
  menu.add(new Option(this.columns[index].name + ": all", ""));
  Array.from(values).sort(order.compare).forEach(function (value) { menu.add(new Option(value, value)); });
  menu.addEventListener("change", function () { grid.changed(); });
  this.controls.querySelector(".menus").appendChild(menu);
  this.menus.push(menu);
};

// State: from the address, and into it.

Grid.prototype.restore = function () { this.apply(address.parameters()); this.layOut(); };

Grid.prototype.apply = function (parameters) {
  var grid = this, key = function (name) { return parameters.get(grid.table.id + "." + name) || ""; };
  var named = function (text) { return text.split("|").map(grid.indexOf, grid).filter(function (index) { return index >= 0; }); };
  var labels = new Set(key("pair").split("|").filter(Boolean));
  this.input.value = key("filter");
  this.menus.forEach(function (menu) { menu.value = key("only " + grid.columns[menu.dataset.column].name); });
  this.hidden = new Set(named(key("hide")));
  this.columns.forEach(function (column, index) { if (column.hidden) { grid.hidden.add(index); } });
  named(key("show")).forEach(function (index) { grid.hidden.delete(index); });
  var column = this.indexOf(key("sort").replace(/^-/, ""));
  this.sort = column < 0 ? null : { column: column, down: key("sort").startsWith("-") };
  this.picked = labels.size ? this.rows.map(function (_, row) { return row; })
    .filter(function (row) { return labels.has(grid.label(row)); }) : [];
};

Grid.prototype.remember = function () {
  var grid = this, values = {}, name = function (index) { return grid.columns[index].name; };
  var of = function (indices) { return indices.map(name).join("|"); };
  values.filter = this.input.value;
  this.menus.forEach(function (menu) { values["only " + name(menu.dataset.column)] = menu.value; });
  values.hide = of(Array.from(this.hidden).filter(function (index) { return !grid.columns[index].hidden; }));
  values.show = of(this.columns.map(function (column, index) { return index; })
    .filter(function (index) { return grid.columns[index].hidden && !grid.hidden.has(index); }));
  values.sort = this.sort ? (this.sort.down ? "-" : "") + name(this.sort.column) : "";
  values.pair = this.picked.map(this.label, this).join("|");
  var keyed = {};
  Object.keys(values).forEach(function (key) { keyed[grid.table.id + "." + key] = values[key]; });
  address.set(keyed);
};

Grid.prototype.changed = function () { this.remember(); this.layOut(); };

Grid.prototype.indexOf = function (name) {
  return this.columns.findIndex(function (column) { return column.name === name; });
};

// What a row is called: all that says which it is.
Grid.prototype.label = function (row) {
  var grid = this;
  return this.rows[row].filter(function (_, index) { return grid.columns[index].names; }).map(allOf).join(" ");
};

// Columns in view; on a narrow screen those with names are one, numbers follow, and other words come last.

Grid.prototype.layOut = function () {
  var grid = this, head = this.table.tHead.rows[0];
  this.inView = this.columns.map(function (_, index) { return index; }).filter(function (index) { return !grid.hidden.has(index); });
  this.merged = narrow.matches ? this.inView.filter(function (index) { return grid.columns[index].names; }) : [];
  if (this.merged.length) {
    var rest = this.inView.filter(function (index) { return !grid.columns[index].names; });
    var numbers = rest.filter(function (index) { return grid.columns[index].numeric; });
    this.inView = [this.merged[0]].concat(numbers, rest.filter(function (index) { return !grid.columns[index].numeric; }));
  }
  head.replaceChildren();
  this.inView.forEach(function (index) {
    var column = grid.columns[index], cell = add(head, "th", undefined, column.numeric ? "num" : "");
    cell.scope = "col";
    if (grid.sort && grid.sort.column === index) { cell.setAttribute("aria-sort", grid.sort.down ? "descending" : "ascending"); }
    var button = add(cell, "button", column.name);
    button.type = "button";
    button.addEventListener("click", function () {
      grid.sort = { column: index, down: grid.sort !== null && grid.sort.column === index && !grid.sort.down };
      grid.changed();
      grid.table.tHead.rows[0].cells[grid.inView.indexOf(index)].querySelector("button").focus({ preventScroll: true });
    });
  });
  this.boxes.forEach(function (box, index) { box.checked = !grid.hidden.has(index); });
  this.menus.forEach(function (menu) { menu.classList.toggle("chosen", menu.value !== ""); });
  if (this.pair) { this.pair.disabled = this.picked.length !== 2; }
  this.choose();
  this.draw(STEP);
};

// Rows that pass the filter, in their order. Rows without a number come last, both ways.

Grid.prototype.choose = function () {
  var grid = this, words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
  var menus = this.menus.filter(function (menu) { return menu.value !== ""; });
  this.chosen = this.rows.map(function (_, row) { return row; }).filter(function (row) {
    return menus.every(function (menu) { return textOf(grid.rows[row][menu.dataset.column]) === menu.value; })
      && words.every(function (word) { return grid.haystack(row).includes(word); });
  });
  this.count.textContent = this.chosen.length + " of " + this.rows.length + " " + this.table.dataset.what;
  if (!this.sort) { return; }
  var column = this.sort.column, down = this.sort.down ? -1 : 1, numeric = this.columns[column].numeric;
  var keys = new Map(this.chosen.map(function (row) { return [row, grid.key(row, column, numeric)]; }));
  this.chosen.sort(function (a, b) {
    var x = keys.get(a), y = keys.get(b);
    if (!numeric) { return down * order.compare(x, y); }
    if (x === null || y === null) { return (x === null) - (y === null); }
    return down * (x - y);
  });
};

Grid.prototype.haystack = function (row) {
  if (!this.haystacks[row]) { this.haystacks[row] = this.rows[row].map(allOf).join(" ").toLowerCase(); }
  return this.haystacks[row];
};

Grid.prototype.key = function (row, column, numeric) {
  var entry = this.rows[row][column];
  return !numeric ? textOf(entry) : entry && entry.v !== undefined && !entry.w ? entry.v : null;
};

// The body of the table.

Grid.prototype.draw = function (most) {
  var body = document.createElement("tbody"), shown = Math.min(most, this.chosen.length), grid = this;
  for (var place = 0; place < shown; place += 1) { this.drawRow(body, this.chosen[place]); }
  this.table.replaceChild(body, this.table.tBodies[0]);
  this.more.replaceChildren();
  if (shown < this.chosen.length) {
    add(this.more, "span", shown + " of " + this.chosen.length + " rows are drawn. ", "soft");
    [["Draw " + STEP + " more", shown + STEP], ["Draw all", Infinity]].forEach(function (step) {
      add(grid.more, "button", step[0]).type = "button";
      grid.more.lastChild.addEventListener("click", function () { grid.draw(step[1]); });
      grid.more.append(" ");
    });
  }
  markBoxes();
};

Grid.prototype.drawRow = function (body, row) {
  var grid = this, entries = this.rows[row], line = add(body, "tr", undefined, this.classes[row]);
  var wide = entries.findIndex(function (entry) { return entry.w; });
  for (var place = 0; place < this.inView.length; place += 1) {
    var index = this.inView[place], column = this.columns[index];
    if (wide >= 0 && index >= wide) {  // a reason in place of numbers
      drawEntry(add(line, "td", undefined, "wrap"), entries[wide]);
      line.lastChild.colSpan = this.inView.length - place;
      return;
    }
    var cell = add(line, place ? "td" : "th", undefined, column.numeric ? "num" : textOf(entries[index]).length > LONG ? "text long" : "text");
    if (place === 0) {
      cell.scope = "row";
      if (this.pair) { this.drawBox(cell, row); }
    }
    if (place === 0 && this.merged.length) {
      cell.classList.add("merged");
      drawEntry(cell, entries[this.merged[0]]);
      add(cell, "small", this.merged.slice(1).map(function (part) { return allOf(entries[part]); }).join(" "));
    } else { drawEntry(cell, entries[index]); }
    if (column.name === "status" && this.pair && hasJobs(row)) { this.drawOpener(cell, row); }
  }
};

Grid.prototype.drawBox = function (cell, row) {
  var grid = this, box = add(cell, "input");
  box.type = "checkbox";
  box.checked = this.picked.includes(row);
  box.setAttribute("aria-label", "Compare " + this.label(row));
  box.addEventListener("change", function () {
    grid.picked = grid.picked.filter(function (other) { return other !== row; });
    if (box.checked) { grid.picked = grid.picked.slice(-1).concat(row); }  // of three the first is let go
    grid.remember();
    grid.pair.disabled = grid.picked.length !== 2;
    grid.table.querySelectorAll("tbody input").forEach(function (each) { each.checked = grid.picked.includes(Number(each.value)); });
  });
  box.value = row;
};

Grid.prototype.drawOpener = function (cell, row) {
  var button = add(cell, "button", "Jobs", "jobs"), title = this.label(row);
  button.type = "button";
  button.setAttribute("aria-label", "Jobs of " + title);
  button.addEventListener("click", function () { openJobs(row, title); });
  button.before(" ");
};

function drawEntry(cell, entry) {
  var text = textOf(entry), parts = text.split("+");
  var holder = entry.c ? add(cell, "span", undefined, "chip " + entry.c) : cell;
  parts.forEach(function (part, index) {  // a name may break before each of its settings
    if (index) { add(holder, "wbr"); }
    holder.append(index ? "+" + part : part);
  });
  if (entry.i) { cell.append(" "); add(cell, "span", entry.i, "interval"); }
  if (entry.h) { cell.title = entry.h; }
  (entry.s || []).forEach(function (below) { add(cell, "small", below); });
}

var grids = Array.from(document.querySelectorAll("table.grid")).map(function (table) { return new Grid(table); });
if (location.hash.startsWith("#?")) {  // to the first table that the address speaks of
  var first = grids.find(function (grid) { return location.hash.includes(grid.table.id); });
  if (first) { first.controls.scrollIntoView(); }
}
