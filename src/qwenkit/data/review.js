document.querySelectorAll("article button").forEach((button) => {
  button.onclick = async () => {
    const card = button.closest("article");
    const row = { id: card.dataset.id, rule: card.dataset.rule, say: button.dataset.say };
    try {
      const answer = await fetch("/", { method: "POST", body: JSON.stringify(row) });
      if (!answer.ok) throw new Error();
      card.dataset.said = row.say;
    } catch {
      alert("Not saved: open this page by `qwenkit inspect corpus RUN --serve`.");
    }
  };
});
