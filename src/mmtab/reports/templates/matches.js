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
