"use strict";
// Tables whose headings are buttons are sorted by a press; numbers from high to low first.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const table = heading.closest("table");
    const column = [...heading.parentNode.children].indexOf(heading);
    const numbers = heading.dataset.kind !== "words";
    const down = heading.getAttribute("aria-sort") ? heading.getAttribute("aria-sort") === "ascending" : numbers;
    for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => {
      const text = row.children[column].dataset.value ?? row.children[column].textContent.trim();
      return numbers ? (text === "-" || text === "" ? -Infinity : parseFloat(text.replace("\u2212", "-"))) : text;
    };
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const x = value(a), y = value(b);
      const order = numbers ? (x === y ? 0 : x < y ? -1 : 1) : x.localeCompare(y);
      return down ? -order : order;
    });
    table.tBodies[0].append(...rows);
  });
}
for (const field of document.querySelectorAll("input[data-filter]")) {
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    for (const row of document.getElementById(field.dataset.filter).tBodies[0].rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
    }
  });
}
