
// Tables sort by a click on a head: numbers largest first, words from A. A second click turns the order round.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const numeric = head.classList.contains("num");
    const first = numeric ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? (numeric ? "ascending" : "descending") : first;
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const value = (row) => {
      const cell = row.cells[head.cellIndex];
      return numeric ? Number(cell.dataset.value) : cell.textContent;
    };
    const rows = [...body.rows].map((row) => [value(row), row]);
    rows.sort(([one], [other]) => (numeric ? one - other : one.localeCompare(other)) * (order === "ascending" ? 1 : -1));
    body.append(...rows.map(([, row]) => row));
    $("said").textContent = `sorted by ${button.textContent}, ${order}`;
  });
}
document.documentElement.dataset.ready = performance.now().toFixed(0);
