"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const body = document.querySelector(".board tbody");
const headers = [...document.querySelectorAll("th[aria-sort]")];
const dialog = document.getElementById("details");

function compare(a, b) {
  const numbers = [Number(a), Number(b)];
  return numbers.some(Number.isNaN) ? a.localeCompare(b) : numbers[0] - numbers[1];
}

function sort(header, direction) {
  const { column } = header.firstElementChild.dataset;
  const sign = direction === "ascending" ? 1 : -1;
  const rows = [...body.rows].sort((x, y) => {
    const [a, b] = [x, y].map((row) => row.cells[column].dataset.value);
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    return sign * compare(a, b);
  });
  body.append(...rows);
  for (const other of headers) other.setAttribute("aria-sort", other === header ? direction : "none");
}

for (const header of headers) {
  const other = { ascending: "descending", descending: "ascending" };
  header.addEventListener("click", () => {
    const now = header.getAttribute("aria-sort");
    sort(header, other[now] ?? header.firstElementChild.dataset.first);
  });
}

function filter() {
  const words = document.getElementById("filter").value.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const row of body.rows) {
    const text = row.dataset.text.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  document.getElementById("count").textContent = `${shown} of ${body.rows.length} rows`;
  document.getElementById("nothing").hidden = shown > 0;
}

// Text goes in as text, never as markup: names come from other people's files.
function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function section([title, lines]) {
  const list = element("dl", "");
  for (const [label, value] of lines) list.append(element("dt", label), element("dd", value));
  return element("section", "", element("h3", title), list);
}

function open(row, column) {
  const cell = data.cells[row][column];
  const score = element("p", cell.value, element("small", cell.half));
  score.className = `value ${cell.status}`;
  document.getElementById("details-title").replaceChildren(
    cell.title, element("small", cell.subtitle));
  document.getElementById("details-body").replaceChildren(
    score,
    ...cell.facts.map((fact) => element("p", fact)),
    ...cell.reasons.map((reason) => element("pre", reason)),
    ...[...cell.sections, ...data.rows[row]].map(section));
  dialog.showModal();
  dialog.scrollTop = 0;
}

body.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) open(Number(button.dataset.row), Number(button.dataset.column));
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();  // the backdrop
});
document.getElementById("filter").addEventListener("input", filter);
filter();
