// The jobs that a row rests on, unpacked from the data of lorcbench.report.page.jobs.

var known = JSON.parse(document.getElementById("provenance").textContent);

function hasJobs(row) { return row < known.cells.length && known.cells[row].length > 0; }

function field(job, name) {
  var place = known.fields.indexOf(name), value = job[2 + place];
  return value === null || place < known.own ? value : known.values[value];
}

function describe(body, job) {
  add(body, "h3", field(job, "stage"));
  var links = add(body, "div"), list = add(body, "dl");
  var path = job[0].split("/").map(encodeURIComponent).join("/");
  known.files.forEach(function (name, bit) {
    if (job[1] & 1 << bit) { add(links, "a", name).href = known.link + "/" + path + "/" + name; }
  });
  add(list, "dt", "folder");
  add(list, "dd", known.root + "/" + job[0]);
  ["digest", "code", "commit", "host", "device", "seconds", "peak_rss_mib"].forEach(function (name) {
    if (field(job, name) === null) { return; }
    add(list, "dt", name.replace("peak_rss_mib", "peak MiB"));
    add(list, "dd", String(field(job, name)));
  });
  var settings = field(job, "settings");
  if (settings && Object.keys(settings).length) {
    var shown = add(body, "pre", JSON.stringify(settings, null, 1));
    shown.tabIndex = 0;
  }
}

function openJobs(row, title) {
  var body = openDialog("Jobs of " + title);
  known.cells[row].forEach(function (index) { describe(body, known.jobs[index]); });
}
