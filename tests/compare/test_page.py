import re
from html.parser import HTMLParser

import pytest

from robe.compare.page import render

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Checker(HTMLParser):
    """Collects ids, references and texts, and insists that tags nest."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.labels, self.svgs = [], [], [], 0

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        self.labels += attributes.get("aria-labelledby", "").split()
        self.svgs += tag == "svg"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        if "id" in dict(attrs):
            self.ids.append(dict(attrs)["id"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check(text):
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def page():
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")


@pytest.mark.usefixtures("page")
@pytest.mark.parametrize("kind", [{"best_auc": 0.81}, {"seeds": 1, "tuned": False}])
def test_page_is_well_formed_and_stands_alone(make, kind):
    text = render(make(**kind))
    checker = check(text)
    assert len(checker.ids) == len(set(checker.ids))
    assert checker.svgs >= 5
    assert len(checker.labels) == checker.svgs
    assert set(checker.labels) <= set(checker.ids)
    assert "<script" not in text
    assert "@import" not in text
    # The only addresses are the names of XML name spaces.
    assert set(re.findall(r"https?://[^\"' <)]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not re.findall(r"<(?:img|link|iframe|object|embed)\b", text)


@pytest.fixture(scope="module")
def text(make, page):
    return render(make(best_auc=0.81, failed=True))


def test_page_says_what_it_is(text):
    for part in ("3 seeds", "23,062,400", "0.8100", "200,209 test", "sha256:1f", "robe compare data --out out"):
        assert part in text
    assert "prefers-color-scheme" in text


def test_plots_take_their_colours_from_the_page(text):
    assert "#a1b2" not in text
    assert text.count("var(--s0)") > 3


def test_page_marks_the_chosen_value_of_each_arm(make, text):
    assert text.count('class="chosen"') == len(make().arms)


def test_page_shows_failed_runs(text):
    assert "1 failed" in text
    assert "loss is NaN at step 40" in text


def test_same_comparison_same_bytes(make, text):
    assert render(make(best_auc=0.81, failed=True)) == text


@pytest.mark.usefixtures("page")
def test_texts_are_escaped(make):
    comparison = make()
    hostile = type(comparison)(**(vars(comparison) | {"command": "robe <script>alert(1)</script>"}))
    assert "<script" not in render(hostile)


@pytest.mark.usefixtures("page")
def test_page_of_failures_alone(make):
    comparison = make()
    failed = tuple(type(r)(r.run, r.arm, r.seed, error="diverged") for r in comparison.records)
    text = render(type(comparison)(**(vars(comparison) | {"records": failed})))
    check(text)
    assert "No run finished." in text
