"""Pages as other people write them, a small one of each kind: what has to stay, and what still has to go."""

from __future__ import annotations

import pytest

from qwenkit.data.extract.text import extract_text

BEES = """<p>A hive is opened on a warm day without wind, because the brood gets cold when the lid is off.</p>
<p>Whoever works slowly is stung less, and smoke is needed only when the guards at the entrance become restless.</p>"""
WAX = """<p>Wax is melted in a bath of water, never over a flame, and it is poured through a cloth into a wet mould.</p>
<p>The cakes are ready when they come loose by themselves, which takes a night in winter and longer in summer.</p>"""
JUNK = "Our partners and we store cookies on your device, so that we can show you what you like, and measure it."


def text_of(body: str, title: str = "Keeping bees") -> str:
    return extract_text(f"<!DOCTYPE html><html><head><meta charset=utf-8><title>{title}</title></head>{body}</html>")


def check(body: str, kept: str | list[str], gone: str | list[str] = "\0") -> None:
    text = text_of(body)
    kept, gone = ([part] if isinstance(part, str) else part for part in (kept, gone))
    assert not [part for part in kept if part not in text], text
    assert not [part for part in gone if part in text], text


def article(middle: str) -> str:
    return f"<nav><a href=/>Home</a></nav><article><h1>Bees</h1>{BEES}{middle}{WAX}</article><footer>{JUNK}</footer>"


INLINE = [
    ("The land has 5 km<sup>2</sup>, or 10<sup>-3</sup> of all.", "5 km^2, or 10^-3 of all", "km2"),
    ("It is x<sup>n+1</sup> and (a+b)<sup>2</sup>, e<sup>x</sup>.", "x^(n+1) and (a+b)^2, e^x.", ""),
    (
        "On the 1<sup>st</sup> of May, au XVIII<sup>e</sup> siècle, 1<sup>η</sup>.",
        "1st of May, au XVIIIe siècle, 1η.",
        "^",
    ),
    ("It is CO<sub>2</sub> and a<sub>ij</sub> there.", "CO2 and a_ij there", ""),
    ("Bees dance.<sup>4</sup> They do<sup><a href='#n5'>5</a></sup> so.", "dance. They do so.", ["4", "5"]),
    ("So it was<a href='#fn1' class=footnote-ref><sup>1</sup></a> in the end.", "So it was in the end.", ""),
    ("So it was<sup>[citation needed]</sup> once<sup>[12]</sup>.", "So it was once.", "["),
    ("As it is said <a href='#_ftn2'>[2]</a> of bees.", "As it is said of bees.", "[2]"),
    ("Before the first frost, read <a href='#more'>the chapter on wax</a> too.", "read the chapter on wax too.", ""),
    ("A <ruby>蜂<rp>(</rp><rt>はち</rt><rp>)</rp></ruby>の巣 is a hive.", "A 蜂の巣 is a hive", ["はち", "()"]),
    ("Go <a href=/x>home<span class=visually-hidden> (leaves the page)</span></a> now.", "Go home now.", "leaves"),
    ("Price <span style='display: none'>000120</span>120 crowns.", "Price 120 crowns.", "000120"),
    ("He said <q>not yet</q> to her.", "He said “not yet” to her.", ""),
    ("<b>W</b>ord and hon<wbr>ey and wa&shy;x.", "Word and honey and wax.", ""),
    ("Bees <img class=emoji alt='🐝' src=x> are <img alt='A picture of bees' src=y> small.", "Bees 🐝 are small.", ""),
]


@pytest.mark.parametrize(("line", "kept", "gone"), INLINE)
def test_inside_a_line(line: str, kept: str, gone: str | list[str]) -> None:
    check(article(f"<p>{line}</p>"), kept, gone or [])


MATH = "<math><msup><mi>x</mi><mn>2</mn></msup><mo>+</mo><mfrac><mi>a</mi><mi>b</mi></mfrac></math>"
TEX = "<math><semantics><mi>x</mi><annotation encoding='application/x-tex'>x^2</annotation></semantics></math>"
FORMULAS = [
    (MATH, r"$x^2+\frac{a}{b}$"),
    (TEX, "$x^2$"),
    ("<math alttext='x^2'><mi>x</mi></math>", "$x^2$"),
    (
        "<span class=mwe-math-element><span style='display:none'>"
        f"{TEX}</span><img alt='{{\\displaystyle x^2}}' src=x></span>",
        "$x^2$",
    ),
    ("<span class=MathJax_Preview>x2</span><span class=MathJax>x2</span><script type='math/tex'>x^2</script>", "$x^2$"),
    (
        "<mjx-container class=MathJax><mjx-math>x2</mjx-math>"
        f"<mjx-assistive-mml>{TEX}</mjx-assistive-mml></mjx-container>",
        "$x^2$",
    ),
    (
        f"<span class=katex-display><span class=katex><span class=katex-mathml>{TEX}</span>"
        "<span class=katex-html>x2</span></span></span>",
        "$x^2$",
    ),
    ("<img src='https://latex.codecogs.com/svg.latex?x%5E2'>", "$x^2$"),
    ("<img class=latex alt='$x^2$' src=a.png>", "$x^2$"),
    ("<img src='https://a.b/equation?tex=x%5E2' alt='x^2'>", "$x^2$"),
    (r"\(x^2\)", r"\(x^2\)"),
]


@pytest.mark.parametrize(("formula", "kept"), FORMULAS)
def test_formulas_once(formula: str, kept: str) -> None:
    text = text_of(article(f"<p>Let it be {formula} in the plane, where we look for its lowest point.</p>"))
    assert f"Let it be {kept} in the plane" in text and "x2" not in text


CODE = "def hive(n):\n    if n:\n        return n"
ROWS = list(enumerate(CODE.split("\n"), 1))
CODES = [
    "<div class=highlight><table class=highlighttable><tr><td class=linenos><pre>1\n2\n3</pre></td><td class=code>"
    f"<pre><span></span>{CODE}</pre></td></tr></table></div>",
    "<table class=lntable><tr><td class=lntd><pre><code><span class=lnt>1\n</span><span class=lnt>2\n</span>"
    f"<span class=lnt>3\n</span></code></pre></td><td class=lntd><pre><code>{CODE}</code></pre></td></tr></table>",
    "<table class=rouge-table><tr><td class='rouge-gutter gl'><pre class=lineno>1\n2\n3\n</pre></td>"
    f"<td class=rouge-code><pre>{CODE}\n</pre></td></tr></table>",
    "<pre><code class=hljs><table class=hljs-ln>"
    + "".join(
        f"<tr><td class='hljs-ln-line hljs-ln-numbers' data-line-number={n}></td>"
        f"<td class='hljs-ln-line hljs-ln-code'>{line}</td></tr>"
        for n, line in ROWS
    )
    + "</table></code></pre>",
    "<table>"
    + "".join(f"<tr><td class=blob-num>{n}</td><td class=blob-code>{line}</td></tr>" for n, line in ROWS)
    + "</table>",
    "<pre class=line-numbers><code>"
    + "".join(f"<span class=ln>{n}</span>{line}\n" for n, line in ROWS)
    + "</code></pre>",
    "<pre><code>" + "".join(f"<div class=line>{line}</div>" for _, line in ROWS) + "</code></pre>",
    "<pre><code>"
    + "".join(f"<span class=token-line>{line}<br></span>" for _, line in ROWS)
    + "</code><button>Copy</button></pre>",
    "<pre class=prettyprint><ol class=linenums>"
    + "".join(f"<li class=L0>{line}</li>" for _, line in ROWS)
    + "</ol></pre>",
    f"<div style='white-space: pre-wrap'>{CODE}</div>",
    f"<div class=highlight><button class=copy>Copy code</button><pre>{CODE}</pre></div>",
]


@pytest.mark.parametrize("code", CODES)
def test_code_keeps_its_lines_and_indents(code: str) -> None:
    check(article(code), CODE, ["Copy", "1\n2", "1 |"])


def test_numbers_that_are_code_stay() -> None:
    check(article("<pre class=line-numbers>1\n2\n3</pre>"), [], [])
    check(article("<pre>10\n20\n30</pre>"), "10\n20\n30")


TABLES = [
    ("<tr><th>Year<th>Honey<th>Wax<tr><td>1911<td><td>3", "Year | Honey | Wax\n1911 |  | 3"),
    ("<tr><th>Year<th>Honey<tr><td>1911<td>", "Year | Honey\n1911 |"),
    ("<tr><th>Year<th>Honey<th>Wax<tr><td colspan=2>lost<td>3", "Year | Honey | Wax\nlost |  | 3"),
    ("<tr><td rowspan=2>1911<td>May<td>4<tr><td>June<td>5", "1911 | May | 4\n | June | 5"),
    ("<tr><td><p>Ann</p></td><td><p>10.9</p></td></tr><tr><td><p>Bo</p></td><td></td></tr>", "Ann | 10.9\nBo |"),
    ("<thead><tr><th>A<th>B</thead><tbody><tr><td>one<br>two<td>3</tbody>", "A | B\none two | 3"),
]


@pytest.mark.parametrize(("rows", "kept"), TABLES)
def test_tables_keep_their_columns(rows: str, kept: str) -> None:
    check(article(f"<table>{rows}</table>"), kept)


SECTION = (
    "<p>What is said here takes a whole sentence, with a comma and a full stop, as any other section of it does.</p>"
)


@pytest.mark.parametrize(
    "heading",
    "Comments|Related articles|Комментарии|Обсуждение|Kommentare|相关文献|热门话题|Opinie|Latest news in brief".split(
        "|"
    ),
)
@pytest.mark.parametrize("shape", ["h2", "section", "div"])
def test_a_section_in_the_middle_ends_nothing(heading: str, shape: str) -> None:
    opened, closed = ("", "") if shape == "h2" else (f"<{shape}>", f"</{shape}>")
    parts = "".join(f"{opened}<h2>{name}</h2>{SECTION}{closed}" for name in (heading, "Feeding", "Wintering"))
    check(f"<main><h1>Bees</h1>{BEES}{WAX}{parts}</main>", ["What is said here", "Wintering"])


ENDINGS = [
    (
        "<h3>Comments (2)</h3><div class=c><b>Bo</b><p>I had bees too, but they flew away in the summer.</p></div>",
        "Bo",
    ),
    (
        "<div><h3>Related stories</h3><p>The mayor opened a bridge, and all came to see it on Sunday.</p></div>",
        "mayor",
    ),
    ("<h3>相关新闻</h3><p>The mayor opened a bridge, and the whole town came to see it on Sunday.</p>", "mayor"),
    ("<p>© 2019 The Bee Post. All rights reserved, and no part may be printed without our leave.</p>", "leave"),
    ("<p>Copyright 2019 The Bee Post</p><p>Written by nobody, printed by us, and sold at the door.</p>", "sold at"),
    (f"<div class='cookie-banner'><p>{JUNK}</p></div>", "partners"),
    (f"<div id=cookies style='display:none'><p>{JUNK}</p></div>", "partners"),
    (f"<div class=modal aria-hidden=true><p>{JUNK}</p></div>", "partners"),
    (f"<section id=comments><h2>Comments</h2><p>{JUNK}</p></section>", "partners"),
    (f"<aside class=related><p>{JUNK}</p></aside>", "partners"),
    (
        "<button>Subscribe to our letter, now.</button><textarea placeholder=x>Your comment</textarea>",
        ["Subscribe", "Your"],
    ),
]


@pytest.mark.parametrize(("end", "gone"), ENDINGS)
def test_what_follows_a_text_still_goes(end: str, gone: str) -> None:
    check(
        f"<div class=page><h1>Bees</h1><div class=text>{BEES}{WAX}</div>{end}</div>",
        ["A hive is opened", "come loose"],
        gone,
    )


LINES = [
    "“No comment,” said the keeper.",
    "Copyright Act 1911 was the law that keepers of records met first, in those years.",
    "All rights reserved is a phrase that means less than people think, as the court found.",
    "Comments, she said, are cheap.",
]


@pytest.mark.parametrize("line", LINES)
def test_a_sentence_in_the_middle_ends_nothing(line: str) -> None:
    check(f"<div><h1>Bees</h1>{BEES}<p>{line}</p>{WAX}</div>", [line, "come loose by themselves"])


def test_sections_named_after_their_headings_stay() -> None:
    names = ("Cookies", "Search", "Related", "Newsletter", "Comments")
    for tag, extra in (("section", ""), ("div", "class=section")):
        parts = "".join(
            f"<{tag} {extra} id='{n.lower()}'><h2>{n}<a class=headerlink href='#x'>¶</a></h2>"
            f"{SECTION}<p>{n} too.</p></{tag}>"
            for n in names
        )
        check(f"<main><h1>Client</h1>{BEES}{parts}{WAX}</main>", [f"{n} too." for n in names], "¶")
    heads = "".join(f"<h2 id='{n.lower()}'>{n}</h2>{SECTION}" for n in names)
    check(f"<main><h1>Client</h1>{BEES}{heads}</main>", list(names))


ARTICLES = [
    ("<article class='post reply'><div class=by><a href=/u>{0}</a></div><p>{1}</p></article>", ""),
    ("<div class='answer'><div class=post-text><p>{1}</p></div></div>", ""),
    ("<section><article><p>{1}</p></article></section>", ""),
    ("<article><h2>{0}</h2><p>{1}</p></article>", "News"),
]
POSTS = [
    ("ann", "Which smoker do you take for a hive of gentle bees, and what do you burn in it when the wood is wet?"),
    ("bo", "I burn dry grass, which is there all year round, and the smoke of it is cool enough to hold a hand in."),
    ("cleo", "Cardboard does it as well, rolled up tightly, but take the tape off first, since it stinks for hours."),
]


@pytest.mark.parametrize(("form", "kind"), ARTICLES)
def test_all_posts_of_a_thread_stay(form: str, kind: str) -> None:
    posts = "".join(form.format(*post) for post in POSTS)
    found = text_of(f"<h1>Which smoker for gentle bees?</h1><div>{posts}</div>", "Which smoker for gentle bees?")
    if kind:  # parts with headings of their own are pages of their own
        assert POSTS[0][1] in found
    else:
        assert all(post in found for _, post in POSTS)


HIDDEN = [
    "<div class='tab-pane' style='display:none'>{0}</div>",
    "<div role=tabpanel class=tab-content hidden>{0}</div>",
    "<div class=collapse aria-hidden=true>{0}</div>",
    "<div id=more-text style='display: none'>{0}</div>",
    "<details><summary>The rest</summary>{0}</details>",
]


@pytest.mark.parametrize("form", HIDDEN)
def test_what_a_click_shows_stays(form: str) -> None:
    check(
        article(
            form.format("<p>The queen is marked with a dot of paint, a colour for each year, so that she is found.</p>")
        ),
        "The queen",
    )


def test_hidden_copies_and_notices_go() -> None:
    check(article(f"<div class=tab-pane hidden>{BEES}</div><div hidden><p>{JUNK}</p></div>"), "come loose", "partners")
    assert text_of(article(f"<div class=tab-pane hidden>{BEES}</div>")).count("A hive is opened") == 1


QUESTIONS = [
    "<h3><button aria-expanded=false>{0}</button></h3><div>{1}</div>",
    "<button class=accordion>{0}</button><div class=panel>{1}</div>",
    "<button data-bs-toggle=collapse>{0}</button><div class=collapse>{1}</div>",
    "<dl><dt><button>{0}</button></dt><dd>{1}</dd></dl>",
    "<details><summary>{0}</summary>{1}</details>",
]


@pytest.mark.parametrize("form", QUESTIONS)
def test_buttons_that_are_headings_stay(form: str) -> None:
    check(article(form.format("Do bees sleep?", SECTION)), ["Do bees sleep?", "What is said here"])


def test_recipes() -> None:
    items = "".join(f"<li>{item}</li>" for item in ("200 g honey", "3 eggs", "a pinch of salt"))
    steps = (
        "Warm the honey in a pot of copper, but never let it boil.",
        "Beat the eggs into it, until it is pale as cream.",
    )
    method = "<ol>" + "".join(f"<li>{step}</li>" for step in steps * 2) + "</ol>"
    ways = [
        f"<h3>Ingredients</h3><ul>{items}</ul><p>Time: 10 min</p><h3>Method</h3>{method}",
        f"<div class=a><h2>Ingredients</h2><ul>{items}</ul></div><div class=b><h2>Method</h2>{method}{BEES}</div>",
    ]
    for way in ways:
        kept = ["Ingredients", "200 g honey", "3 eggs", "Beat the eggs"]
        check(
            f"<nav><a href=/>Home</a></nav><div><h1>Honey cake</h1>{way}</div><footer>{JUNK}</footer>", kept, "partners"
        )


def test_letters_poems_and_lists_of_terms() -> None:
    check(
        f"<article><h1>Letter</h1><p>Dear Bo,</p>{BEES}<p>Yours,</p><p>Ann</p></article>", ["Dear Bo,", "Yours,", "Ann"]
    )
    poem = "<p>The bees come home at evening,<br>and no one calls them in;<br>the light goes over the garden.</p>"
    check(f"<article><h1>Evening</h1>{poem}{poem}</article>", "evening,\nand no one calls them in;\nthe light")
    lines = ("The bees come home,", "and no one calls;", "the light goes out,", "and evening falls.")
    verse = "".join(f"<div class=line>{line}</div>" for line in lines)
    check(f"<article><h1>Evening</h1>{verse}</article><footer>{JUNK}</footer>", "\n".join(lines), "partners")
    terms = "<dl><dt>Drone</dt><dd>A male bee, without a sting.</dd><dt>Super</dt><dd>A box for honey.</dd></dl>"
    check(article(terms), "Drone\nA male bee, without a sting.\nSuper\nA box for honey.")


def test_questions_and_short_tables() -> None:
    asked = "".join(
        f"<div><div class=q>{q}</div><div class=a>{SECTION}</div></div>" for q in ("Do they sleep?", "Why?")
    )
    check(f"<main><h1>Questions</h1>{asked}</main>", ["Do they sleep?", "Why?"])
    note = "<p>Here are the prices of this year, with the tax.</p><table><tr><th>Kind<th>Price<tr><td>Lime<td>5</table>"
    check(f"<div><h1>Prices</h1>{note}</div>", "Kind | Price\nLime | 5")


def test_text_to_copy_stays() -> None:
    check(
        article("<textarea readonly>The bees come home,\n  one by one.</textarea>"),
        "The bees come home,\n  one by one.",
    )
    check(
        article("<textarea>&lt;iframe src=x&gt;&lt;/iframe&gt;</textarea><textarea>Name</textarea>"),
        [],
        ["iframe", "Name"],
    )


def test_lines_of_a_page_made_from_pdf() -> None:
    words = """The first survey of hives in the lower val-|ley was made by a teacher, who walked from|farm to farm and
wrote down what he|saw there in a book of his own. It was lost in the war, but a copy turned up in|1964."""
    lines = [" ".join(line.split()) for line in words.split("|")]
    for form in ("<div class=t>{}</div>", "<p class=s1>{}</p>"):
        check(
            f"<div id=pf1>{''.join(form.format(line) for line in lines)}</div>",
            "lower valley was made by a teacher, who walked from farm",
        )


def test_lines_that_are_paragraphs_stay_so() -> None:
    people = [f"魏东升{n}居住在龙泉，他是一名飞行员。城里的孩子们都熟悉这个故事，大家也都知道他。" for n in range(4)]
    body = "".join(
        f"<p>{line}</p>" for line in [*people, "韦明珠 律师", "朱丽华 飞行员", "云彩霞 裁缝", "周文海 飞行员"]
    )
    check(f"<div>{body}</div>", ["\n\n".join(people), "韦明珠 律师\n\n朱丽华 飞行员\n\n云彩霞 裁缝"])


def test_wiki_marks_and_lists_go() -> None:
    body = f"""<div class=mw-parser-output><div class=hatnote>For the film, see elsewhere.</div>{BEES}<h2>Wax<span
class=mw-editsection>[<a href=/e>edit</a>]</span></h2>{WAX}<div class=reflist><ol class=references><li>A book, 1911, of
six hundred pages, by nobody.</li></ol></div><div class=navbox>Insects: ants, bees, wasps.</div></div>"""
    check(f"<h1>Bees</h1>{body}", "\n\nWax\n\nWax is melted", ["edit", "film", "six hundred", "Insects"])


@pytest.mark.parametrize(
    "line",
    [
        "मधुमक्खियाँ सुबह जल्दी निकलती हैं और शाम को घर लौटती हैं। रात में वे सोती हैं।",
        "ผึ้งออกจากรังในตอนเช้าและกลับมาในตอนเย็นพวกมันนอนหลับในเวลากลางคืนทุกคืน",
        "تخرج النحلة في الصباح الباكر من كل يوم، وتعود في المساء إلى بيتها. ماذا تفعل في الليل؟",
        "ミツバチは朝早く巣を出て、夕方に帰ってきます。夜は巣の中で静かに眠っています。",
    ],
)
def test_sentences_of_other_scripts(line: str) -> None:
    nav = "<div class=menu><a href=/a>A</a> <a href=/b>B</a></div>"
    check(f"{nav}<div><p>{line}</p><p>{line[::-1]}{line}</p></div><footer>{JUNK}</footer>", line, "partners")


def test_notes_in_documentation_stay() -> None:
    for kind in ("class='admonition note'", "class='note' role=alert", "class='callout warning'"):
        check(
            article(f"<aside {kind}><p>Wear gloves for this, and a veil, since the bees mind it.</p></aside>"),
            "Wear gloves",
        )
