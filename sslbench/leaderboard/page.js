const $ = (id) => document.getElementById(id);
const data = JSON.parse(await unpack("data"));
const rows = data.rows.map((row, index) => ({ ...row, index, published: row.aggregate }));
const columns = data.columns.map((column, index) => ({ ...column, index }));
const averaged = columns.filter((column) => column.averaged);
const FACETS = { ...facetsOfRows(), ...facetsOfColumns() };
const AGGREGATES = [
  ["rank", (a) => a.rank, "Rank"], ["mean", (a) => a.mean, "Mean"],
  ["normalised", (a) => a.normalised, "Above chance"],
  ["borda", (a) => a.borda, "Borda"], ["winRate", (a) => a.winRate, "Wins"],
];
const FIRST = 1 + AGGREGATES.length;  // place of the first column of scores

// Names come from other people's files: text goes in as text, never as markup.
function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function labels() {
  const names = new Map();
  for (const row of rows) names.set(row.name, (names.get(row.name) ?? 0) + 1);
  for (const row of rows) row.label = names.get(row.name) > 1 ? [row.name, ...row.about].join(" · ") : row.name;
}

function facetsOfRows() {
  const found = {};
  for (const name of Object.keys(rows[0].facets)) {
    found[name] = [...new Set(rows.map((row) => row.facets[name]))].sort();
  }
  return found;
}

function facetsOfColumns() {
  const values = (key) => [...new Set(columns.map((column) => column[key]))];
  return { task: values("task"), dataset: values("dataset") };
}

// ---- unpacking

async function unpack(name) {
  const { body } = await fetch(`data:;base64,${$(`packed-${name}`).textContent}`);  // no network: it is in the address
  return new Response(body.pipeThrough(new DecompressionStream("gzip"))).text();
}

const loaded = {};
function once(name, make) {
  loaded[name] ??= make();
  return loaded[name];
}

const json = (name) => once(name, async () => JSON.parse(await unpack(name)));
const plotly = () => once("plotly", async () => {
  document.head.append(element("script", await unpack("plotly")));
  return window.Plotly;
});
const noise = () => once("noise", () => {
  const steps = Int8Array.from(atob(data.noise.steps), (c) => c.charCodeAt(0));
  const at = (c, row, d) => steps[(c * rows.length + row) * data.noise.draws + d] * data.noise.scale[c][row];
  return { draws: data.noise.draws, at };
});

// ---- what is shown, and the address that says so

const state = { q: "", chosen: {}, sort: "", theme: "", plot: "", column: "", cell: "" };

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  state.q = given.get("q") ?? "";
  state.chosen = {};
  for (const [name, options] of Object.entries(FACETS)) {
    const wanted = given.getAll(name).filter((value) => options.includes(value));
    if (wanted.length) state.chosen[name] = new Set(wanted);
  }
  for (const name of ["sort", "theme", "plot", "column", "cell"]) state[name] = given.get(name) ?? "";
  if (!["light", "dark"].includes(state.theme)) state.theme = "";
  if (!Object.keys(PLOTS).includes(state.plot)) state.plot = "";
}

function write() {
  const out = new URLSearchParams();
  if (state.q) out.set("q", state.q);
  for (const [name, chosen] of Object.entries(state.chosen)) for (const value of chosen) out.append(name, value);
  for (const name of ["sort", "theme", "plot", "column", "cell"]) if (state[name]) out.set(name, state[name]);
  const hash = out.toString();
  if (hash !== location.hash.slice(1)) history.replaceState(null, "", `#${hash}`);
}

const allows = (name, value) => !state.chosen[name] || state.chosen[name].has(value);
const columnShown = (column) => allows("task", column.task) && allows("dataset", column.dataset);

function rowShown(row) {
  const words = state.q.toLowerCase().split(/\s+/);
  const text = [row.name, ...row.about, ...Object.values(row.facets)].join(" ").toLowerCase();
  return words.every((word) => text.includes(word))
    && Object.entries(row.facets).every(([name, value]) => allows(name, value));
}

// ---- numbers

const cellOf = (row, column) => data.cells[row.index][column.index];
const score = (row, column) => (cellOf(row, column).length > 1 ? cellOf(row, column)[0] : null);
const interval = (row, column) => (cellOf(row, column)[1] ?? null) === null ? null : cellOf(row, column).slice(1, 3);

// One decimal as Python writes it: of two that are as near, the even one.
const decimal = (value) => (Math.abs(value) % 1 === 0.25 ? value - 0.01 * Math.sign(value) : value).toFixed(1);

function formatted(column, value) {
  if (value === null) return "";
  if (column.share) return decimal(100 * value);
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : value.toPrecision(4);
}

function half(column, ends) {
  if (!ends) return "";
  const width = (ends[1] - ends[0]) / 2;
  return column.share ? `±${decimal(100 * width)}` : `±${Number(width.toPrecision(2))}`;
}

// Over the chosen columns that all shown rows have; rows without any score aside.
function recompute() {
  const shown = rows.filter(rowShown);
  const chosen = averaged.filter(columnShown);
  const scored = shown.filter((row) => columns.some((c) => columnShown(c) && score(row, c) !== null));
  const common = chosen.filter((column) => scored.every((row) => score(row, column) !== null));
  for (const row of rows) row.aggregate = null;
  if (common.length && scored.length) {
    const published = rows.filter((row) => row.published);
    const everything = shown.length === rows.length && chosen.length === averaged.length
      && scored.length === published.length;
    if (everything) for (const row of rows) row.aggregate = row.published;
    else {
      const { draws, at } = noise();
      const found = aggregate(common.map((column) => {
        const place = averaged.indexOf(column);
        return {
          values: scored.map((row) => score(row, column)),
          chance: column.chance,
          noise: Array.from({ length: draws }, (_, d) => scored.map((row) => at(place, row.index, d))),
        };
      }), data.level);
      scored.forEach((row, i) => { row.aggregate = found[i]; });
    }
  }
  const names = common.map((column) => `${column.task}/${column.dataset}`);
  $("common").textContent = common.length
    ? `Rank, means, Borda and wins: over the ${common.length} of ${columns.filter(columnShown).length} columns shown that are `
      + `shares, of which higher is better, and that all ${scored.length} rows shown with scores have`
      + `${names.length > 8 ? "" : ` (${names.join(", ")})`}.`
    : "No rank and no mean: no column of shares is shared by all rows shown.";
  $("count").textContent = `${shown.length} of ${rows.length} rows`;
  $("nothing").hidden = shown.length > 0;
  $("reset").hidden = !state.q && !Object.keys(state.chosen).length;
}

// ---- the table

function nameCell(row) {
  const about = row.about.map((part) => {
    const made = element("span", part);
    made.title = part;
    return made;
  });
  if (row.seeds > 1) about.push(element("span", `${row.seeds} seeds`));
  if (row.facets.source === "external") about.unshift(element("b", "external"));
  return element("div", "", document.createTextNode(row.name), element("small", "", ...about));
}

function marked(mark) {
  if (!mark) return [];
  const sign = element("span", data.text.marks[mark]);
  sign.className = "mark";
  sign.ariaHidden = "true";
  return [sign];
}

function scoreCell(row, column) {
  const [value, low, high, mark, verified] = cellOf(row, column);
  const button = element("button", "");
  button.type = "button";
  button.dataset.row = row.index;
  button.dataset.column = column.index;
  if (typeof value === "string") {
    button.append(Object.assign(element("span", data.text.empty[value] ?? "nan"), { className: "empty" }));
    return button;
  }
  button.append(...marked(mark), Object.assign(element("span", formatted(column, value)), { className: "score" }));
  button.append(element("small", half(column, low === null ? null : [low, high])));
  if (verified) {
    const sign = Object.assign(element("span", "✓"), { className: "verified", ariaHidden: "true" });
    button.append(sign, Object.assign(element("span", data.text.verified), { className: "hidden" }));
  }
  if (mark) button.append(Object.assign(element("span", data.text.meaning[mark]), { className: "hidden" }));
  button.append(range(column, value, low, high));
  return button;
}

function range(column, value, low, high) {
  const place = (number) => `${(column.high > column.low ? 100 * (number - column.low) / (column.high - column.low) : 50).toFixed(1)}%`;
  const chance = column.share && column.chance !== null ? `--chance:${place(column.chance)};` : "";
  const ends = low === null ? "" : `--low:${place(low)};--high:${place(high)};`;
  const line = Object.assign(element("span", ""), { className: "range", ariaHidden: "true" });
  line.setAttribute("style", `--at:${place(value)};${chance}${ends}`);
  return line;
}

function rankCell(own) {
  const bounds = own.rankLow === own.rankHigh ? `${own.rankLow}` : `${own.rankLow}–${own.rankHigh}`;
  const mark = own.rank === 1 ? "best" : own.group === 1 ? "tied" : null;
  return element("span", "", ...marked(mark), document.createTextNode(own.rank), element("small", bounds));
}

const AGGREGATE_TEXT = {
  rank: rankCell,
  mean: (own) => decimal(100 * own.mean),
  normalised: (own) => decimal(100 * own.normalised),
  borda: (own) => own.borda.toFixed(1),
  winRate: (own) => (100 * own.winRate).toFixed(0),
};

// DataTables asks for each use of a value: to show, to sort, to filter.
const render = (value, show) => (_, use, row) => (use === "display" ? show(row) ?? "" : value(row));

function definitions() {
  const up = ["asc", "desc"];
  const down = ["desc", "asc"];
  const className = (column) => {
    const previous = columns[column.index - 1];
    return `cell${!previous || previous.task !== column.task ? " task" : ""}`;
  };
  return [
    { data: null, ariaTitle: "Name", className: "name", orderSequence: up, type: "string", render: render((row) => row.name, nameCell) },
    ...AGGREGATES.map(([name, of, ariaTitle]) => ({
      data: null,
      ariaTitle,
      type: "number-last",
      className: name === "rank" ? "task aggregate" : "aggregate",
      orderSequence: name === "rank" ? up : down,
      render: render((row) => (row.aggregate ? of(row.aggregate) : null),
        (row) => row.aggregate && AGGREGATE_TEXT[name](row.aggregate)),
    })),
    ...columns.map((column) => ({
      data: null,
      ariaTitle: axis(column),
      type: "number-last",
      className: className(column),
      orderSequence: column.higher === false ? up : down,
      render: render((row) => score(row, column), (row) => scoreCell(row, column)),
      createdCell: (cell, _, row) => {
        const mark = cellOf(row, column)[3];
        if (mark) cell.classList.add(mark);
      },
    })),
    ...[["parameters", "Parameters"], ["seconds", "Pretraining time"]].map(([name, ariaTitle]) => ({
      data: null,
      ariaTitle,
      type: "number-last",
      className: name === "parameters" ? "task" : "",
      orderSequence: up,
      render: render((row) => row[name], (row) => row[`${name}Text`]),
    })),
  ];
}

async function makeTable() {
  const url = URL.createObjectURL(new Blob([await unpack("datatables")], { type: "text/javascript" }));
  const { jQuery } = await import(url);
  const { DataTable } = jQuery.fn;
  const last = (sign) => (a, b) => (a === null || b === null ? (a === null) - (b === null) : sign * (a - b));
  Object.assign(DataTable.ext.type.order, { "number-last-asc": last(1), "number-last-desc": last(-1) });
  const made = jQuery("#board").DataTable({
    data: [],
    columns: definitions(),
    order: [],
    language: { aria: { orderableRemove: ": Activate to invert sorting" } },  // it is never removed
    autoWidth: false,
    deferRender: true,
    paging: rows.length > 100,
    pageLength: Math.max(10, Math.min(50, Math.floor(600 / columns.length))),
    layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: rows.length > 100 ? "paging" : null },
    createdRow: (line) => { const cell = line.cells[0]; cell.scope = "row"; },
    columnDefs: [{ targets: 0, cellType: "th" }],
  });
  made.search.fixed("shown", (_, row) => rowShown(row));
  return made;
}

// ---- facets: check boxes in boxes that open

function facetBox(name) {
  const options = FACETS[name];
  const summary = element("summary", name);
  const list = element("ul", "");
  for (const value of options) {
    const input = Object.assign(document.createElement("input"), { type: "checkbox", value, checked: allows(name, value) });
    list.append(element("li", "", element("label", "", input, document.createTextNode(value))));
  }
  const box = element("details", "", summary, list);
  box.className = "facet";
  box.dataset.facet = name;
  box.addEventListener("change", () => {
    const inputs = [...box.querySelectorAll("input")];
    const wanted = inputs.filter((input) => input.checked).map((input) => input.value);
    if (wanted.length === options.length || !wanted.length) delete state.chosen[name];
    else state.chosen[name] = new Set(wanted);
    if (!wanted.length) for (const input of inputs) input.checked = true;  // nothing chosen is all
    refresh();
  });
  return box;
}

function showFacets() {
  for (const box of document.querySelectorAll(".facet")) {
    const name = box.dataset.facet;
    for (const input of box.querySelectorAll("input")) input.checked = allows(name, input.value);
    const chosen = state.chosen[name];
    box.querySelector("summary").textContent = chosen ? `${name}: ${chosen.size} of ${FACETS[name].length}` : name;
    box.classList.toggle("active", Boolean(chosen));
  }
}

// ---- plots

function probe(colour) {
  const made = element("span", "");
  made.style.color = `var(--${colour})`;
  document.body.append(made);
  const found = getComputedStyle(made).color;
  made.remove();
  return found;
}

let drawings = 0;
async function drawPlot() {
  const turn = drawings += 1;
  const name = state.plot || Object.keys(PLOTS)[0];
  const plot = PLOTS[name];
  const column = columns.find((one) => one.name === state.column) ?? averaged[0] ?? columns[0];
  $("plot").value = name;
  $("plot-column").value = column.name;
  $("plot-column-label").hidden = !plot.column;
  const shown = rows.filter(rowShown);
  const points = plot.column ? await json("points") : null;
  const { traces, layout, caption, height } = plot.draw(
    { rows: shown, columns: columns.filter(columnShown), column, points, score, interval });
  const library = await plotly();
  if (turn !== drawings) return;  // another plot was chosen in the meantime
  $("chart-caption").textContent = caption;
  if (!traces) {
    library.purge("chart");
    return;
  }
  const [ink, soft, line, accent, paper] = ["ink", "soft", "line", "accent", "paper"].map(probe);
  const grid = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  if (traces.length === 1) traces[0].marker = { color: accent, size: 8 };
  if (traces[0].type === "heatmap") traces[0].colorscale = [[0, paper], [1, accent]];
  await library.react("chart", traces, {
    height: height ?? 480,
    margin: { t: 36, r: 20 },  // room for the buttons
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, family: "system-ui, sans-serif" },
    hoverlabel: { font: { color: ink }, bgcolor: paper, bordercolor: soft },
    ...layout,
    xaxis: { ...grid, ...layout?.xaxis },
    yaxis: { ...grid, ...layout?.yaxis },
  }, { responsive: true, displaylogo: false, showSendToCloud: false });  // nothing leaves the page
}

// ---- the dialog of a cell

function section([title, lines]) {
  const list = element("dl", "");
  for (const [label, value] of lines) list.append(element("dt", label), element("dd", value));
  return element("section", "", element("h3", title), list);
}

function reproduction(row, own, cell) {
  if (!cell.reproduce) return [];
  const external = row.facets.source === "external";
  const text = external ? `${own.reproduce} ${cell.reproduce}` : `${own.reproduce}\n\n${cell.reproduce}`;
  const copy = Object.assign(element("button", "Copy"), { type: "button", className: "copy" });
  copy.addEventListener("click", () => copyText(text, copy));
  const how = external ? "Run" : "Save as reproduced.toml, then: sslbench run reproduced.toml";
  const code = element("pre", text);
  code.className = "code";
  code.tabIndex = 0;
  return [element("section", "", element("h3", "Compute it again"), element("p", how), code, copy)];
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed by the browser";
  }
}

async function openCell(row, column) {
  const own = await json(`row-${row.index}`);
  const cell = own.cells[column.index];
  const [value, low, high] = cellOf(row, column);
  const empty = typeof value === "string";
  const shown = element("p", empty ? data.text.empty[value] ?? "nan" : formatted(column, value),
    element("small", empty || low === null ? "" : half(column, [low, high])));
  shown.className = `value ${empty ? value : "ok"}`;
  $("details-title").replaceChildren(row.name, element("small", axis(column)));
  $("details-body").replaceChildren(
    shown,
    ...cell.facts.map((fact) => element("p", fact)),
    ...cell.reasons.map((reason) => element("pre", reason)),
    ...[...cell.sections, ...own.sections].map(section),
    ...reproduction(row, own, cell));
  if (!$("details").open) $("details").showModal();
  $("details").scrollTop = 0;
  state.cell = `${row.label}\n${column.name}`;
  write();
}

function openLinked() {
  const [label, name] = state.cell.split("\n");
  const row = rows.find((one) => one.label === label);
  const column = columns.find((one) => one.name === name);
  if (row && column) openCell(row, column);
  else $("details").close();
}

// ---- all together

labels();
read();
const table = await makeTable();
const nameOf = (index) => (index === 0 ? "name"
  : index < FIRST ? AGGREGATES[index - 1][0]
    : columns[index - FIRST]?.name ?? ["parameters", "seconds"][index - FIRST - columns.length]);

function order() {
  const [name, direction] = state.sort.split(" ");
  const index = [...Array(FIRST + columns.length + 2).keys()].find((i) => nameOf(i) === name);
  table.order(index === undefined ? [[1, "asc"]] : [[index, direction === "asc" ? "asc" : "desc"]]);
}

function refresh() {
  recompute();
  showFacets();
  $("filter").value = state.q;
  $("theme").value = state.theme || "light dark";
  document.documentElement.style.colorScheme = state.theme || "light dark";
  table.columns().every((index) => {
    const column = columns[index - FIRST];
    const shown = !column || columnShown(column);
    if (table.column(index).visible() !== shown) table.column(index).visible(shown, false);
  });
  if (table.rows().any()) table.rows().invalidate("data");
  else table.rows.add(rows);
  order();
  table.draw();
  write();
  if (seen) drawPlot();
}

table.on("order", () => {
  const [first] = table.order();
  if (!first) return;
  const sort = `${nameOf(first[0])} ${first[1]}`;
  state.sort = sort === "rank asc" ? "" : sort;
  write();
});
for (const name of Object.keys(FACETS)) if (FACETS[name].length > 1) $("facets").append(facetBox(name));
for (const name of Object.keys(PLOTS)) $("plot").append(element("option", name));
for (const column of columns) {
  $("plot-column").append(Object.assign(element("option", axis(column)), { value: column.name }));
}
$("filter").addEventListener("input", (event) => { state.q = event.target.value; refresh(); });
$("theme").addEventListener("change", (event) => {
  state.theme = event.target.value === "light dark" ? "" : event.target.value;
  refresh();
});
$("plot").addEventListener("change", (event) => { state.plot = event.target.value; write(); drawPlot(); });
$("plot-column").addEventListener("change", (event) => { state.column = event.target.value; write(); drawPlot(); });
$("reset").addEventListener("click", () => { state.q = ""; state.chosen = {}; refresh(); $("filter").focus(); });
$("link").addEventListener("click", (event) => copyText(location.href, event.target));
$("csv").addEventListener("click", async () => {
  const url = URL.createObjectURL(new Blob([await unpack("csv")], { type: "text/csv" }));
  Object.assign(element("a", ""), { href: url, download: "leaderboard.csv" }).click();
});
$("board").addEventListener("click", (event) => {
  const button = event.target.closest("button[data-row]");
  if (button) openCell(rows[button.dataset.row], columns[button.dataset.column]);
});
$("details").addEventListener("click", (event) => {
  if (event.target === $("details")) $("details").close();  // the backdrop
});
$("details").addEventListener("close", () => { state.cell = ""; write(); });
addEventListener("hashchange", () => { read(); refresh(); openLinked(); });
document.addEventListener("click", (event) => {
  for (const box of document.querySelectorAll(".facet[open]")) if (!box.contains(event.target)) box.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const box of document.querySelectorAll(".facet[open]")) { box.open = false; box.querySelector("summary").focus(); }
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (seen) drawPlot(); });

let seen = false;  // the plots are drawn once somebody scrolls to them
new IntersectionObserver((entries, observer) => {
  if (!entries.some((entry) => entry.isIntersecting)) return;
  observer.disconnect();
  seen = true;
  drawPlot();
}).observe($("plots"));
refresh();
openLinked();
document.documentElement.dataset.ready = "true";
