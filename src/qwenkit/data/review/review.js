const cards = [...document.querySelectorAll("article")];
const sameCard = (row) => (card) =>
  card.dataset.id === row.id && card.dataset.source === row.source && card.dataset.rule === row.rule;
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function addRow(table, cells, kind) {
  const line = table.insertRow();
  for (const cell of cells) line.appendChild(document.createElement(kind)).textContent = cell;
}

async function showSaid() {
  const { said, summary } = await (await fetch("/said")).json();
  for (const row of said) for (const card of cards.filter(sameCard(row))) card.dataset.said = row.say;
  const place = document.getElementById("summary");
  place.replaceChildren();
  if (!said.length) return;
  const table = place.appendChild(document.createElement("table"));
  addRow(table, ["judged", "right", "wrong", "share right (95 %)"], "th");
  for (const [name, found] of [...Object.entries(summary.by_source_and_rule), ...Object.entries(summary.by_rule)]) {
    const share = `${percent(found.share)} (${percent(found.low)} to ${percent(found.high)})`;
    addRow(table, [name, found.right, found.wrong, share], "td");
  }
  const overlaps = summary.false_positives.overlaps;
  if (!overlaps) return;
  place.appendChild(document.createElement("p")).textContent =
    `False positives among overlaps with tests: ${percent(overlaps.share)} ` +
    `(${percent(overlaps.low)} to ${percent(overlaps.high)}).`;
}

document.querySelectorAll("article button").forEach((button) => {
  button.onclick = async () => {
    const { id, source, rule } = button.closest("article").dataset;
    try {
      const body = JSON.stringify({ id, source, rule, say: button.dataset.say });
      const answer = await fetch("/", { method: "POST", headers: { "Content-Type": "application/json" }, body });
      if (!answer.ok) throw new Error(await answer.text());
      await showSaid();
    } catch (error) {
      alert(`Not saved: ${error.message}\nOpen this page by \`qwenkit inspect corpus RUN --serve\`.`);
    }
  };
});

if (location.protocol.startsWith("http")) showSaid();
