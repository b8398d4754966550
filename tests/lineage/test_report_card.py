"""The report card: complete on a whole run, calm on half a run, and safe with hostile text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from qwenkit.errors import UserError
from qwenkit.lineage import report_card_claims, report_card_graph, report_card_seeds, run_reader
from qwenkit.lineage.report_card import shown, write_card
from qwenkit.stages import claims
from tests.lineage.card_run import CHAIN, HOSTILE, make_report, make_run, write

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Tags, text and outside references of a page; unbalanced tags are an error."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data", "srcset")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, str, str]:
    run = make_run(tmp_path_factory.mktemp("card") / "run")
    metrics = write_card(run, run / "report")
    html, markdown = ((run / "report" / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    return run, metrics, html, markdown


def test_whole_run(whole: tuple[Path, dict, str, str]) -> None:
    _, metrics, html, markdown = whole
    page = Page(html)
    assert "not run" not in page.text
    for name, (_, _, headline) in CHAIN.items():
        assert name in page.text and name in markdown
        assert headline[:20] in page.text
    numbers = ("13-gram", "bytes per token", "True rubric", "71.0 % [66.4, 75.2]", "loss-spike")
    for expected in (*numbers, "青石镇的镇长是林月。"):
        assert expected in page.text, expected
    assert page.tags.count("svg") >= 30
    assert page.text.count("held out: zh") == 1 and "held out: seconds" not in page.text
    assert metrics["alarms"] == 1 and metrics["nodes"] == 10 and metrics["claims"]["did not work"] >= 2


def test_self_contained(whole: tuple[Path, dict, str, str]) -> None:
    html = whole[2]
    page = Page(html)
    assert len(html.encode()) < 3_000_000
    assert all(link.startswith("#") for link in page.links), "nothing is asked of the network"
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    assert not re.search(r"url\((?!#)|@import", html)
    assert "viewport" in html and "prefers-color-scheme: dark" in html and "@media print" in html


def test_paper_loses_nothing(whole: tuple[Path, dict, str, str]) -> None:
    """Folded tables are opened, bars keep their colour, dark inks stay on the screen, and nothing has a least width."""
    style = whole[2].split("<style>")[1].split("</style>")[0]
    print_rules = style.split("@media print")[1]
    assert "details::details-content" in print_rules and "print-color-adjust: exact" in print_rules
    assert style.count("prefers-color-scheme: dark") == style.count("screen and (prefers-color-scheme: dark)") == 1
    assert "min-width" not in style.replace("min-width: 0", "")


def test_hostile_text_stays_text(whole: tuple[Path, dict, str, str]) -> None:
    _, _, html, markdown = whole
    page = Page(html)
    assert '<script>alert("x")</script>' in page.text and "{{ 7*7 }}" in page.text
    assert "\u202e" not in html and "\x1b" not in html and "\u202e" not in markdown
    assert "long long" in page.text and "(+3500 characters)" in page.text
    fenced = re.findall(r"^(`{3,})text\n(.*?)\n\1$", markdown, re.DOTALL | re.MULTILINE)
    assert any("<script>" in body and len(fence) > 3 for fence, body in fenced)


def test_every_reference_inside_an_svg_is_unique(whole: tuple[Path, dict, str, str]) -> None:
    html = whole[2]
    clips = re.findall(r'<clipPath id="([^"]+)"', html)
    assert clips and len(clips) == len(set(clips))
    used = set(re.findall(r"(?:url\(|xlink:href=\")#(\w+)", html))
    assert used <= set(re.findall(r'id="([^"]+)"', html))


def test_two_cards_of_one_run_are_the_same_bytes(whole: tuple[Path, dict, str, str], tmp_path: Path) -> None:
    run, metrics, html, markdown = whole
    assert write_card(run, tmp_path) == metrics
    assert (tmp_path / "report.html").read_text() == html and (tmp_path / "report.md").read_text() == markdown


@pytest.mark.parametrize("only", [[], ["world"], ["world", "corpus", "base"], ["chat-rlhf", "exam"]], ids=str)
def test_half_a_run(tmp_path: Path, only: list[str]) -> None:
    write_card(make_run(tmp_path / "run", only), tmp_path / "out")
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert "Tokenizer: not run" in page.text
    assert ("Exam: not run" in page.text) == ("exam" not in only)


def test_a_folder_with_nothing_in_it(tmp_path: Path) -> None:
    write_card(tmp_path, tmp_path / "out")
    text = Page((tmp_path / "out" / "report.html").read_text()).text
    assert text.count("not run") > 8
    with pytest.raises(UserError, match="no such run folder"):
        write_card(tmp_path / "nowhere", tmp_path / "out")


def test_the_card_does_not_report_on_itself(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["world"])
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "node_start", "attempt": 1, "node": "final-report"}) + "\n")
    first = write_card(run, run / ".work" / "final-report-0123abcd" / "out")
    page = Page((run / ".work" / "final-report-0123abcd" / "out" / "report.html").read_text())
    assert "final-report" not in page.text and first == write_card(run, run / "final-report")


def test_nodes_that_did_not_run_are_listed_but_not_drawn(tmp_path: Path) -> None:
    write_card(make_run(tmp_path / "run", ["world", "corpus", "base"]), tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count('<g class="node') == 5, "three that ran and the two they read"
    assert "3 artifacts, 7 nodes not run" in html


JUNK = [None, 7, "x", [], [None], {"a": None}, [[1]], float("nan"), {"en": {"mean": "x"}}, True]


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_metrics_of_the_wrong_shape_do_not_break_the_card(tmp_path: Path, junk: object) -> None:
    run = make_run(tmp_path / "run")
    for name in CHAIN:
        manifest = json.loads((run / name / "manifest.json").read_text())
        manifest["metrics"] = dict.fromkeys(manifest["metrics"], junk)
        write(run / name / "manifest.json", manifest)
    (run / "events.jsonl").write_text(
        "".join(json.dumps({"event": e, "attempt": 1, "node": "base", "step": 1, "loss": junk, "id": junk}) + "\n"
                for e in ("step", "eval", "alarm", "node_failed")) + '{"event": "st'
    )  # fmt: skip
    write_card(run, tmp_path / "out")
    Page((tmp_path / "out" / "report.html").read_text())


def events(folder: Path, *rows: dict) -> run_reader.RunView:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "events.jsonl").write_text("".join(json.dumps({"attempt": 1, **row}) + "\n" for row in rows))
    return run_reader.load_run(folder)


def test_a_step_done_twice_counts_once_and_a_fresh_start_forgets(tmp_path: Path) -> None:
    step = {"event": "step", "node": "base"}
    old = [{"event": "node_start", "node": "base"}, *({**step, "step": i, "loss": 9.0} for i in range(1, 9))]
    resumed = [{"event": "resumed", "node": "base"}, *({**step, "step": i, "loss": 1.0} for i in (7, 8, 9))]
    run = events(tmp_path / "a", *old, *resumed)
    assert [row["loss"] for row in run.nodes["base"].steps] == [9.0] * 6 + [1.0] * 3
    fresh = events(tmp_path / "b", *old, {"event": "node_start", "node": "base"}, {**step, "step": 1, "loss": 2.0})
    assert [row["loss"] for row in fresh.nodes["base"].steps] == [2.0]


def test_alarms_of_an_earlier_attempt_are_told_and_not_counted(tmp_path: Path) -> None:
    alarm = {"event": "alarm", "node": "base", "step": 3, "id": "loss-spike", "cause": "a spike"}
    step = {"event": "step", "node": "base", "step": 1, "loss": 1.0}
    again = {"event": "resumed", "node": "base"}
    run = events(tmp_path, {"event": "node_start", "node": "base"}, step, alarm, again, {**again, "step": 1})
    assert (run.nodes["base"].alarms, len(run.nodes["base"].earlier_alarms)) == ([], 1)
    claims = {claim.text: claim for claim in report_card_claims.make_claims(run)}
    assert claims["Training stayed healthy"].outcome == "worked"
    assert write_card(tmp_path, tmp_path / "out")["alarms"] == 0
    for name in ("report.html", "report.md"):
        assert "Earlier attempt, not counted: loss" in (tmp_path / "out" / name).read_text().replace("\\", "")


def test_failed_and_unfinished_nodes_are_named(tmp_path: Path) -> None:
    start = {"event": "node_start", "node": "base"}
    run = events(tmp_path / "a", start, {"event": "node_failed", "node": "base", "reason": "the loss is NaN"})
    claims = report_card_claims.make_claims(run)
    assert [(c.outcome, c.text, c.evidence) for c in claims] == [("did not work", "base failed", "the loss is NaN")]
    assert events(tmp_path / "b", start).nodes["base"].state == "not finished"


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.1, 0.2, "worked"), (-0.2, -0.1, "did not work"), (-0.1, 0.1, "not resolved"), (None, 0.1, "not resolved")],
)
def test_outcomes_follow_the_interval(low: float | None, high: float, outcome: str) -> None:
    assert claims.outcome_of(low, high) == outcome


def claims_of(tmp_path: Path, node: str, change: dict) -> dict[str, str]:
    run = make_run(tmp_path / "run")
    manifest = json.loads((run / node / "manifest.json").read_text())
    manifest["metrics"] |= change
    write(run / node / "manifest.json", manifest)
    return {claim.text: claim.outcome for claim in report_card_claims.make_claims(run_reader.load_run(run))}


def test_contamination_and_lost_records_are_told(tmp_path: Path) -> None:
    claims = claims_of(tmp_path, "corpus", {"overlap_13gram": 3, "kept": 1})
    assert claims["corpus holds no test text"] == "did not work"
    assert claims["Every record of corpus is accounted for"] == "did not work"


def test_forgetting_is_told(tmp_path: Path) -> None:
    shared = {"b": "base", "set": "base", "component": "right", "n": 100}
    rows = [
        {"a": "chat", "mean": -0.2, "low": -0.22, "high": -0.18, **shared},
        {"a": "chat-rlhf", "mean": 0.0, "low": -0.02, "high": 0.02, **shared},
    ]
    claims = claims_of(tmp_path, "exam", {"comparisons": rows})
    assert claims["chat keeps what base knew (base tasks)"] == "did not work"
    assert claims["chat-rlhf keeps what base knew (base tasks)"] == "worked"


def test_graph_leaves_out_what_a_longer_path_implies() -> None:
    edges = report_card_graph.reduced({name: parents for name, (_, parents, _) in CHAIN.items()})
    assert edges["corpus"] == ["testsets"] and edges["exam"] == ["chat-rlhf"] and edges["chat"] == ["base"]
    assert edges["chat-rlhf"] == ["reward"] and edges["reward"] == ["pmp", "chat"]
    kept = report_card_graph.reduced(
        {name: parents for name, (_, parents, _) in CHAIN.items()}, {("chat", "chat-rlhf")}
    )
    assert kept == edges | {"chat-rlhf": ["chat", "reward"]}, "the policy that is trained further is drawn"


def test_every_box_holds_its_number_whole(whole: tuple[Path, dict, str, str]) -> None:
    """No headline is cut: a few words stand in the box, the line is its title."""
    drawn = whole[2].split('<svg class="family"')[1].split("</svg>")[0]
    words = re.findall(r"<text x=[^>]*>([^<]*)</text>", drawn)
    assert not [word for word in words if word.endswith("…") and len(word) > 1]
    for expected in ("9,812 documents", "1,536 tokens", "held-out loss 1.21 to 1.67", "held-out loss 0.61",
                     "held out 83 %, written by chat 52 %", "32 people, 24 towns"):  # fmt: skip
        assert expected in " ".join(words), expected
    assert "9,812 documents, 8.4 MB; 1,428 dropped; 13-gram overlap 0" in drawn
    assert drawn.count('class="edge"') == 11


def test_boxes_of_the_graph_never_meet() -> None:
    parents = {name: known for name, (_, known, _) in CHAIN.items()}
    parents |= {"code": ["base"], "math": ["base"], "z": ["world"]}
    svg = report_card_graph.family_svg(parents, {name: report_card_graph.Label("done", HOSTILE) for name in parents})
    rectangle = r'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)"'
    boxes = [tuple(map(int, found)) for found in re.findall(rectangle, svg)]
    assert len(boxes) == len(parents)
    for i, (x, y, w, h) in enumerate(boxes):
        assert not any(x < a + c and a < x + w and y < b + d and b < y + h for a, b, c, d in boxes[i + 1 :])
    assert "<script" not in svg


def test_wrap_counts_wide_characters_twice() -> None:
    assert report_card_graph.wrap("你好世界，再见", 8, 2) == ["你好世界", "，再见"]
    assert report_card_graph.wrap("one two three four five", 9, 2) == ["one two", "three…"]
    assert report_card_graph.wrap("x" * 50, 10, 2) == ["xxxxxxxxx…"]


def test_control_and_direction_marks_are_shown_not_obeyed() -> None:
    assert shown("a\x1b[31m\x00\x7f\u202eb\n\tc") == "a␛[31m␀␡\ufffdb\n\tc"


def test_abandoned_scratch_does_not_make_a_finished_node_unfinished(tmp_path: Path) -> None:
    """A failed attempt under other keys leaves its scratch; the node that was then finished is done."""
    run = make_run(tmp_path)
    (run / ".work" / "chat-0123456789ab").mkdir(parents=True)
    with (run / "events.jsonl").open("a") as log:
        for event in ("node_start", "node_done"):
            log.write(json.dumps({"event": event, "time": 2e9, "attempt": 99, "node": "chat"}) + "\n")
    assert run_reader.load_run(run).nodes["chat"].state == "done"


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    run = make_run(tmp_path_factory.mktemp("seeds") / "run")
    write_card(run, run, make_report(run))
    return run, *((run / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))


def test_other_seeds_have_a_section(joined: tuple[Path, str, str], whole: tuple[Path, dict, str, str]) -> None:
    _, html, markdown = joined
    text = Page(html).text
    for told in (text, markdown):
        for expected in ("Across seeds", "Shared by all seeds: world, testsets, corpus, tokenizer.", "+0.125", "1.440"):
            assert expected in told, expected
    assert html.count('class="plot"') == whole[2].count('class="plot"') + 1
    assert 'href="#seeds"' in html and "another seed can move" not in text + markdown
    assert "#seeds" not in whole[2] and "Across seeds" not in whole[3], "a card of one run has no such section"


def test_claims_speak_for_all_seeds_or_for_none(joined: tuple[Path, str, str]) -> None:
    run = joined[0]
    claims = {c.text: c for c in report_card_claims.make_claims(run_reader.load_run(run, run / "report"))}
    for text, outcome in (
        ("chat is better than base on chat, right", "worked"),
        ("chat-rlhf is better than chat on chat, total", "worked"),
        ("chat-rlhf is better than chat on chat, right", "not resolved"),  # one seed says the contrary
        ("chat keeps what base knew (base tasks)", "worked"),
        ("chat-rlhf keeps what chat knew (base tasks)", "did not work"),
        ("reward tells the better answer from the worse one (held out)", "worked"),
        ("reward tells the better answer from the worse one (written by chat)", "not resolved"),  # one seed cannot
    ):
        assert claims[text].outcome == outcome, text
        assert claims[text].evidence.startswith("every seed: "), text
    assert not any("mannered" in text for text in claims), "what this run alone says is told by no claim"


@pytest.mark.parametrize(
    ("means", "low", "high", "kind", "outcome"),
    [
        ([0.1, 0.2], 0.05, 0.2, "chat", "worked"),
        ([0.1, 0.0], 0.05, 0.2, "chat", "not resolved"),
        ([0.1, 0.2], -0.01, 0.2, "chat", "not resolved"),
        ([-0.1, -0.2], -0.2, -0.1, "chat", "did not work"),
        ([0.1, -0.4], -0.2, -0.1, "chat", "not resolved"),
        ([0.1, None], 0.05, 0.2, "chat", "not resolved"),
        ([0.01, -0.02], -0.04, 0.01, "base", "worked"),
        ([0.03, -0.06], -0.04, 0.01, "base", "not resolved"),
    ],
)
def test_every_seed_and_the_pooled_interval_decide(
    means: list[float | None], low: float, high: float, kind: str, outcome: str
) -> None:
    row = {"set": kind, "by_seed": [{"mean": mean} for mean in means], "pooled": {"low": low, "high": high}}
    assert claims.comparison_outcome(row) == outcome


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_damaged_seeds_do_not_break_the_card(tmp_path: Path, junk: object) -> None:
    run = make_run(tmp_path / "run", ["world"])
    whole = json.loads((make_report(run) / "seeds.json").read_text())
    for key in whole:
        write(run / "report" / "seeds.json", {**whole, key: junk})
        write_card(run, tmp_path / "out", run / "report")
        Page((tmp_path / "out" / "report.html").read_text())


def compared(component: str, low: float, high: float, **rest: object) -> dict:
    row = {"a": "chat-rlhf", "b": "chat", "set": "chat", "component": component, "n": 100}
    return {**row, "mean": (low + high) / 2, "low": low, "high": high, **rest}


TOTAL = "chat-rlhf is better than chat on chat, total"


@pytest.mark.parametrize(
    ("right", "outcome", "why"),
    [
        ([compared("right", -0.02, 0.01)], "worked", ""),
        ([compared("right", -0.05, -0.01)], "did not work", "not counted: `right` fell, −0.030 [−0.050, −0.010]"),
        ([], "not resolved", "not counted: whether `right` fell was not measured"),
        ([compared("right", -0.05, -0.01, a="base")], "not resolved", "not counted: whether `right` fell"),
    ],
)
def test_a_better_total_counts_only_if_rightness_did_not_fall(
    right: list[dict], outcome: str, why: str, tmp_path: Path
) -> None:
    """Alone by the row's interval, over seeds by the pooled one."""
    total = compared("total", 0.02, 0.06)
    run = run_reader.RunView("toy", {"exam": run_reader.NodeView("exam", "evaluate", "done")}, {})
    run.nodes["exam"].manifest = {"metrics": {"comparisons": [total, *right]}}
    (claim,) = (c for c in report_card_claims.make_claims(run) if c.text == TOTAL)
    assert claim.outcome == outcome and why in claim.evidence
    rows = [
        {**row, "exam": "exam", "low": None, "high": None, "pooled": {k: row[k] for k in ("mean", "low", "high")},
         "by_seed": [{"mean": row["mean"]}] * 3}
        for row in [total, *right]
    ]  # fmt: skip
    run = run_reader.RunView("toy", {}, {}, {"comparisons": rows})
    (claim,) = (c for c in report_card_claims.make_claims(run) if c.text == TOTAL)
    assert claim.outcome == outcome and why in claim.evidence


def test_the_table_over_seeds_says_what_the_claims_say(tmp_path: Path) -> None:
    pooled = {"total": {"mean": 0.1, "low": 0.05, "high": 0.2}, "right": {"mean": -0.1, "low": -0.2, "high": -0.05}}
    rows = [{"a": "x", "b": "y", "set": "chat", "component": name, "pooled": score, "by_seed": []}
            for name, score in pooled.items()]  # fmt: skip
    told = report_card_seeds.seeds_view({"seeds": [], "comparisons": rows})["comparisons"]
    assert [row["outcome"] for row in told] == ["did not work", "did not work"]
