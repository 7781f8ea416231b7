// Rows that are saved as a file, and two cells side by side.

var DOLLAR = String.fromCharCode(36);
var LATEX = { "&": "\\&", "%": "\\%", "#": "\\#", "_": "\\_", "{": "\\{", "}": "\\}", "~": "\\textasciitilde{}",
  "^": "\\textasciicircum{}", "\\": "\\textbackslash{}", "−": "\\(-\\)", "±": "\\(\\pm\\)", "Δ": "\\(\\Delta\\)", "–": "--" };
LATEX[DOLLAR] = "\\" + DOLLAR;

function latex(text) { return Array.from(text).map(function (sign) { return LATEX[sign] || sign; }).join(""); }

// Heads and rows as text: the columns in view, all rows that pass the filter.
function asText(grid, spell) {
  var columns = grid.columns.map(function (_, index) { return index; })
    .filter(function (index) { return !grid.hidden.has(index); });
  return {
    numeric: columns.map(function (index) { return grid.columns[index].numeric; }),
    heads: columns.map(function (index) { return grid.columns[index].name; }),
    rows: grid.chosen.map(function (row) { return columns.map(function (index) { return spell(grid.rows[row][index]); }); })
  };
}

var FORMATS = {
  CSV: { suffix: ".csv", type: "text/csv", write: function (grid) {  // whole numbers, and intervals in columns of their own
    var quoted = function (text) { return /[",\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text; };
    var table = asText(grid, function (entry) {
      var value = entry && entry.v !== undefined ? String(entry.v) : textOf(entry).replace(/^–/, "");
      return [value, entry && entry.i ? entry.i.replace(/−/g, "-") : "", (entry && entry.s || []).join("; ")];
    });
    var extra = table.heads.map(function (_, at) {
      return [1, 2].filter(function (part) { return table.rows.some(function (row) { return row[at][part]; }); });
    });
    var names = ["", " (interval)", " (more)"];
    var heads = table.heads.flatMap(function (head, at) {
      return [0].concat(extra[at]).map(function (part) { return head + names[part]; });
    });
    var rows = table.rows.map(function (row) {
      return row.flatMap(function (cell, at) { return [0].concat(extra[at]).map(function (part) { return cell[part]; }); });
    });
    return [heads].concat(rows).map(function (row) { return row.map(quoted).join(","); }).join("\n") + "\n";
  } },
  Markdown: { suffix: ".md", type: "text/markdown", write: function (grid) {
    var table = asText(grid, allOf);
    var line = function (row) { return "| " + row.map(function (text) { return text.replace(/\|/g, "\\|"); }).join(" | ") + " |"; };
    var rule = table.numeric.map(function (numeric) { return numeric ? "---:" : "---"; });
    return [line(table.heads), "| " + rule.join(" | ") + " |"].concat(table.rows.map(line)).join("\n") + "\n";
  } },
  LaTeX: { suffix: ".tex", type: "application/x-tex", write: function (grid) {
    var table = asText(grid, allOf), line = function (row) { return row.map(latex).join(" & ") + " \\\\"; };
    var places = table.numeric.map(function (numeric) { return numeric ? "r" : "l"; }).join("");
    return ["\\begin{tabular}{" + places + "}", "\\hline", line(table.heads), "\\hline"]
      .concat(table.rows.map(line), "\\hline", "\\end{tabular}").join("\n") + "\n";
  } }
};

function save(grid, name) {
  var format = FORMATS[name], link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([format.write(grid)], { type: format.type }));
  link.download = grid.table.id + format.suffix;
  link.click();
  setTimeout(function () { URL.revokeObjectURL(link.href); }, 1000);
}

// Each column of both cells, and what the second one has more or less.
function compare(grid) {
  var body = openDialog("Two cells side by side"), table = add(body, "table");
  var pair = grid.picked.map(function (row) { return grid.rows[row]; });
  add(table, "caption", "Two cells side by side");
  var head = add(add(table, "thead"), "tr"), rows = add(table, "tbody");
  ["", "first", "second", "second minus first"].forEach(function (text, at) {
    add(head, at ? "th" : "td", text, at ? "num" : "").scope = "col";
  });
  grid.columns.forEach(function (column, index) {
    var entries = pair.map(function (row) { return row[index]; });
    if (!entries.some(textOf)) { return; }
    var line = add(rows, "tr"), first = add(line, "th", column.name);
    first.scope = "row";
    entries.forEach(function (entry) { drawEntry(add(line, "td", undefined, "num wrap"), entry === undefined ? "" : entry); });
    var values = entries.map(function (entry) { return entry ? entry.v : undefined; });
    var both = column.numeric && values.every(function (value) { return value !== undefined; });
    var gap = both ? values[1] - values[0] : 0;
    add(line, "td", both ? (gap < 0 ? "−" : "+") + Number(Math.abs(gap).toPrecision(4)) : "", "num");
  });
  add(body, "p", "Intervals are of the change to full precision of a cell’s own model, not of the difference between the two cells.", "note");
}
