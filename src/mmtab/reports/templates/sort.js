const every = (what, where = document) => [...where.querySelectorAll(what)];

function sort(button) {
  const head = button.closest('th'), table = button.closest('table'), body = table.tBodies[0], place = head.cellIndex;
  const before = head.getAttribute('aria-sort'), first = button.dataset.down === '1' ? 'descending' : 'ascending';
  const now = before ? (before === 'ascending' ? 'descending' : 'ascending') : first, sign = now === 'ascending' ? 1 : -1;
  for (const other of every('[aria-sort]', table)) other.removeAttribute('aria-sort');
  head.setAttribute('aria-sort', now);
  const keyed = [...body.rows].map(row => {
    const cell = row.cells[place], value = cell.dataset.v;
    return {row, key: value === undefined ? cell.textContent.trim().toLowerCase() : value === '' ? NaN : Number(value)};
  });
  keyed.sort((a, b) => typeof a.key === 'string' ? sign * a.key.localeCompare(b.key)
    : Number.isNaN(a.key) - Number.isNaN(b.key) || (Number.isNaN(a.key) ? 0 : sign * (a.key - b.key)));
  body.append(...keyed.map(each => each.row));
}
document.addEventListener('click', event => { const button = event.target.closest('.sort'); if (button) sort(button); });
