"use strict";
// Headings of a sortable table become buttons that sort the rows of each group; cells without a value come last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending" || !head.hasAttribute("aria-sort") && column === 0;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      for (const body of table.tBodies) {
        const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
        rows.sort((a, b) => compare(a.cells[column], b.cells[column], up)).forEach((row) => body.append(row));
      }
    });
  });
}

function compare(a, b, up) {
  const [x, y] = [a.dataset.v, b.dataset.v];
  if ((x === undefined) !== (y === undefined)) return x === undefined ? 1 : -1;
  const order = x === undefined ? a.textContent.localeCompare(b.textContent) : Number(x) - Number(y);
  return up ? order : -order;
}

// Searches that are folded up are printed too; the code of queries is not, unless a reader has opened it.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("section > details:not([open])")];
  opened.forEach((each) => (each.open = true));
});
addEventListener("afterprint", () => opened.forEach((each) => (each.open = false)));
