const form = document.forms[0], {group, verdict, score, words} = form.elements, sections = [...document.querySelectorAll('section')];
const pairs = [...document.querySelectorAll('article')].map((card, place) => ({
  card, place, called: card.dataset.called.split(' '), scores: card.dataset.scores.split(' ').map(parseFloat),
  text: [...card.querySelectorAll('[role=cell],[role=columnheader]')].map(cell => cell.textContent).join(' ').toLowerCase(),
}));
function show() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const [relation, call] = verdict.value.split(' '), [by, sign] = score.value.split(' ');
  let n = 0;
  for (const {card, called, text} of pairs) {
    const fits = ['', card.parentNode.dataset.group].includes(group.value) && (!relation || called[relation] === call)
      && wanted.every(word => text.includes(word));
    card.hidden = !fits;
    n += fits;
  }
  const low = pair => Number.isNaN(pair.scores[by]) ? Infinity : sign * pair.scores[by];
  const order = by ? (a, b) => low(a) - low(b) || a.place - b.place : (a, b) => a.place - b.place;
  for (const {card} of [...pairs].sort(order)) card.parentNode.append(card);
  for (const section of sections) section.hidden = !section.querySelector('article:not([hidden])');
  for (const reason of document.querySelectorAll('.reason')) reason.hidden = relation && reason.dataset.relation !== relation;
  form.querySelector('output').value = `${n} of ${pairs.length}`;
}
form.addEventListener('input', show);
form.addEventListener('submit', event => event.preventDefault());
form.hidden = false;
show();
// Labels: by pair and relation, kept by the browser until a page of the same records has other labels to begin with.
const given = JSON.parse(form.dataset.given), [, ...relations] = JSON.parse(form.dataset.key), several = relations.length > 1;
const store = `mmtab labels ${form.dataset.key} ${given.length}`, answers = [['1', 'match'], ['0', 'not'], [' ', 'skip']];
const labels = new Map();
const nameOf = card => JSON.stringify([...JSON.parse(card.dataset.ids), relations[form.elements.relation.value]]);
for (const [left, right, relation, label] of given) labels.set(JSON.stringify([left, right, relation]), label);
try { for (const [name, label] of JSON.parse(localStorage.getItem(store) ?? '[]')) labels.set(name, label); } catch {}
let now = null;
function paint() {
  let n = 0;
  for (const {card} of pairs) {
    const label = labels.get(nameOf(card));
    for (const button of card.querySelectorAll('.ask button')) button.ariaPressed = button.value === String(label);
    card.classList.toggle('labelled', label !== undefined);
    card.classList.toggle('now', card === now);
    n += label !== undefined;
  }
  form.querySelector('.labelled').value = `${n} of ${pairs.length} labelled` + (labels.size > n ? `, ${labels.size} in all` : '');
}
const shown = () => [...document.querySelectorAll('article:not([hidden])')];
function go(card) {
  now = card;
  paint();
  card?.scrollIntoView({block: 'nearest'});
}
function keep() {
  try { localStorage.setItem(store, JSON.stringify([...labels])); } catch {}
}
function answer(card, label) {
  if (!card) return;
  const name = nameOf(card);
  if (label !== undefined) {
    if (labels.get(name) === label) labels.delete(name); else labels.set(name, label);
    keep();
  }
  const cards = shown(), after = cards.slice(cards.indexOf(card) + 1);
  const open = after.filter(other => !other.classList.contains('labelled'));
  go(label === undefined ? after[0] ?? card : open[0] ?? card);
}
function save() {
  const cell = value => /[",\r\n]/.test(value) || value === '' ? `"${String(value).replaceAll('"', '""')}"` : value;
  const head = ['left_id', 'right_id', 'label', ...several ? ['relation'] : []];
  const lines = [...labels].map(([name, label]) => {
    const [left, right, relation] = JSON.parse(name);
    return [left, right, label, ...several ? [relation] : []];
  });
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([[head, ...lines].map(line => line.map(cell).join(',') + '\n').join('')]));
  link.download = 'labels.csv';
  link.click();
}
for (const {card} of pairs) {
  const ask = document.createElement('span');
  ask.className = 'ask';
  for (const [value, text] of answers) {
    const button = Object.assign(document.createElement('button'), {type: 'button', value, textContent: text});
    button.append(Object.assign(document.createElement('kbd'), {textContent: value === ' ' ? '␣' : value}));
    ask.append(button);
  }
  card.querySelector('h3').append(ask);
  card.addEventListener('click', event => {
    const button = event.target.closest('.ask button');
    if (button) answer(card, button.value === ' ' ? undefined : Number(button.value)); else go(card);
  });
}
document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest('form, summary')) return;
  if (!['0', '1', ' '].includes(event.key)) return;
  event.preventDefault();
  const open = () => shown().find(card => !card.classList.contains('labelled'));
  answer(now && !now.hidden ? now : open(), event.key === ' ' ? undefined : Number(event.key));
});
form.elements.relation.addEventListener('input', paint);
form.elements.save.addEventListener('click', save);
paint();
now = shown().find(card => !card.classList.contains('labelled')) ?? null;
paint();
// Clusters: pairs of records, of two tables one of each, are labelled as if they stood on the page.
const two = pair => pair.some(([, side]) => side !== 'records');
function label(cluster, pair, value) {
  if (two(pair) && pair[0][1] === pair[1][1]) return 0;
  const [left, right] = pair[0][1] === 'right' ? [pair[1], pair[0]] : pair;
  labels.set(JSON.stringify([left[0], right[0], relations[cluster.dataset.relation]]), value);
  return 1;
}
function told(cluster, n, what) {
  keep();
  paint();
  cluster.querySelector('output').value = `${n} ${n === 1 ? 'pair' : 'pairs'} labelled ${what}`;
}
for (const cluster of document.querySelectorAll('.cluster')) {
  const rows = [...cluster.querySelectorAll('[data-record]')].map(row => ({
    record: JSON.parse(row.dataset.record), box: row.querySelector('input')}));
  cluster.querySelector('.split').addEventListener('click', () => {
    const off = rows.filter(row => row.box.checked), stay = rows.filter(row => !row.box.checked);
    let n = 0;
    for (const a of off) for (const b of stay) n += label(cluster, [a.record, b.record], 0);
    told(cluster, n, 'apart');
  });
  cluster.querySelector('.whole').addEventListener('click', () => {
    let n = 0;
    rows.forEach((a, i) => { for (const b of rows.slice(i + 1)) n += label(cluster, [a.record, b.record], 1); });
    told(cluster, n, 'the same');
  });
  cluster.querySelector('.join')?.addEventListener('click', event => {
    told(cluster, label(cluster, JSON.parse(event.target.dataset.pair), 1), 'the same');
  });
}
