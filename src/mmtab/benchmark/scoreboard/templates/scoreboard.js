const form = document.forms[0], nav = document.querySelector('nav'), sections = every('section');
const rows = every('tr[data-kind]').map(row => ({row, kind: row.dataset.kind, name: row.dataset.name}));
for (const table of every('table.pairs')) for (const [i, row] of every('tbody tr', table).entries()) row.column = i + 1;

function filter() {
  const wanted = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const boxes = every('[name=kind]', form), kinds = new Set(boxes.filter(box => box.checked).map(box => box.value));
  const names = new Set(), all = new Set();
  for (const {row, kind, name} of rows) {
    row.hidden = !((!boxes.length || kinds.has(kind)) && wanted.every(word => name.includes(word)));
    all.add(name);
    if (!row.hidden) names.add(name);
  }
  for (const table of every('table.pairs')) {
    const gone = new Set(every('tbody tr', table).filter(row => row.hidden).map(row => row.column));
    for (const row of table.rows) for (const [i, cell] of [...row.cells].entries()) cell.hidden = gone.has(i);
  }
  form.querySelector('output').value = names.size < all.size ? `${names.size} of ${all.size} entries` : '';
}

function track(number) {
  for (const section of sections) section.hidden = section.dataset.track !== number;
  for (const button of every('button', nav)) button.setAttribute('aria-pressed', button.dataset.track === number);
}

document.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (!button) { if (event.target.matches('dialog')) event.target.close(); }
  else if (button.matches('.open')) every('dialog').find(card => card.dataset.card === button.dataset.card).showModal();
  else if (button.matches('.close')) button.closest('dialog').close();
  else if (button.matches('nav button')) track(button.dataset.track);
});
form.addEventListener('input', filter);
form.addEventListener('submit', event => event.preventDefault());
form.hidden = false;
filter();
if (nav) {
  nav.hidden = false;
  for (const head of every('h2.track')) head.hidden = true;
  track('0');
}
