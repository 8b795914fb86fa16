"use strict";
(() => {
  const table = document.querySelector("#overview table");
  if (!table) return;
  const rows = [...table.tBodies[0].rows];
  const find = document.getElementById("find");
  find.hidden = rows.length < 2;
  find.querySelector("input").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const row of rows) {
      const found = row.textContent.toLowerCase().includes(wanted);
      row.hidden = !found;
      document.getElementById(row.dataset.stack).hidden = !found;
    }
  });
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value ?? cell.textContent.trim();
  };
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const order = new Intl.Collator(undefined, { numeric: true }).compare;
      rows.sort((a, b) => order(key(a, column), key(b, column)) * (down ? -1 : 1));
      table.tBodies[0].append(...rows);
    });
  });
})();
