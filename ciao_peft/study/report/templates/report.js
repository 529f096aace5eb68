// Without it the tables are in the order in which they were written.
for (const table of document.querySelectorAll("table")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const body = table.tBodies[0], cell = row => row.cells[column];
      const key = row => cell(row).dataset.value;
      const numeric = [...body.rows].some(row => key(row) !== undefined);
      const was = head.getAttribute("aria-sort");
      const up = was ? was === "descending" : !numeric;
      table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (a, b) => {
        if (!numeric) return cell(a).textContent.localeCompare(cell(b).textContent, undefined, {numeric: true});
        return key(a) - key(b);
      };
      const present = [...body.rows].filter(row => !numeric || key(row) !== undefined);
      const absent = [...body.rows].filter(row => numeric && key(row) === undefined);
      present.sort((a, b) => up ? order(a, b) : order(b, a));
      body.append(...present, ...absent);
    });
  });
}
