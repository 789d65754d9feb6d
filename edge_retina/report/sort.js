// A click on a column's title sorts the layers by it; numbers from the largest on, text from A on.
for (const table of document.querySelectorAll("table.layers")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    if (!head.dataset.sort) return;
    const sort = () => {
      const up = head.ariaSort === "none" ? head.dataset.sort === "up" : head.ariaSort === "descending";
      const value = row => {
        const cell = row.cells[column];
        return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
      };
      const rows = [...body.rows].sort((a, b) => {
        const x = value(a), y = value(b);
        return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
      });
      heads.forEach(other => { if (other.dataset.sort) other.ariaSort = "none"; });
      head.ariaSort = up ? "ascending" : "descending";
      body.append(...rows);
    };
    head.ariaSort = "none";
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}
