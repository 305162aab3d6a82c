from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from neurogate_testing.runs import make_run
from neurogate_trainer.report.page import read_picture, write_report

VOID = {"img", "meta"}


class Page(HTMLParser):
    """Checks that elements nest, and gathers text, elements and references."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    make_run(folder)
    return folder


@pytest.fixture
def run(whole_run, tmp_path):
    """A run without pictures, which are most of the work of a page."""
    return shutil.copytree(whole_run, tmp_path / "run", ignore=shutil.ignore_patterns("figures"))


@pytest.fixture
def drawn_run(whole_run, tmp_path):
    return shutil.copytree(whole_run, tmp_path / "run")


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def read(run):
    path = write_report(run)
    assert path == run / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_tells_the_story(drawn_run):
    page = read(drawn_run)
    assert "brain_tumor, version 3" in page.text
    assert "Not a medical device." in page.text
    assert "160 images of the sealed test split" in page.text
    assert "trained on 1,120 images of the data set phantom" in page.text
    assert "rotated heads" in page.text
    assert re.search(r"On the test split it is 0\.\d{3} \(95% interval 0\.\d{3} to", page.text)
    for heading in (
        "Summary",
        "Quality on the test split",
        "Audit",
        "Settings",
        "Lineage",
        "Where not to trust it",
    ):
        assert heading in page.text
    assert page.tags.count("figure") == len(list((drawn_run / "figures").glob("*.png")))


def test_stands_alone(drawn_run):
    page = read(drawn_run)
    source = (drawn_run / "report.html").read_text(encoding="utf-8")
    assert "script" not in page.tags
    assert "link" not in page.tags
    references = [value for name, value in page.attributes if name in {"src", "href", "srcset", "action"}]
    assert all(value.startswith(("data:image/", "#")) for value in references)
    assert not re.search(r"url\(|@import|https?://", source)
    anchors = {value for name, value in page.attributes if name == "id"}
    assert {value[1:] for value in references if value.startswith("#")} <= anchors
    assert any(name == "content" and "default-src 'none'" in value for name, value in page.attributes)


def test_warns_of_the_phantom_and_of_nothing_else(run):
    assert "teaches nothing about patients" in read(run).text
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["lineage"]["dataset"] = "clinic"
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "teaches nothing about patients" not in read(run).text


@pytest.mark.parametrize(
    "name", [None, "metrics", "manifest", "published", "splits", "history", "ood", "export"]
)
def test_lives_with_any_missing_file(run, name):
    for path in run.glob("*.json"):
        if name in {None, path.stem}:
            path.unlink()
    page = read(run)
    assert f"{name or 'config'}.json is missing" in page.text


def test_an_empty_run_still_gives_a_page(tmp_path):
    page = read(tmp_path)
    assert "was not evaluated" in page.text
    assert "Not a medical device." in page.text


def test_lives_with_missing_and_damaged_figures(drawn_run):
    (drawn_run / "figures" / "reliability.png").unlink()
    (drawn_run / "figures" / "gradcam_glioma.png").write_bytes(b"no picture")
    (drawn_run / "figures" / "roc_pr.png").write_bytes(
        (drawn_run / "figures" / "roc_pr.png").read_bytes()[:900]
    )
    page = read(drawn_run)
    assert "1 figure missing from the page: reliability.png." in page.text
    assert "The figure gradcam_glioma.png cannot be shown" in page.text
    assert "The figure roc_pr.png cannot be shown" in page.text


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"lineage": 3}'])
def test_lives_with_damaged_records(run, content):
    (run / "manifest.json").write_text(content)
    assert "manifest" in read(run).text


@pytest.mark.parametrize("content", ["[]", "{}", '{"support": 3, "accuracy": {"value": 1.0}}'])
def test_lives_with_records_of_another_structure(run, content):
    for name in ("metrics", "calibration", "audit", "splits", "history", "ood"):
        (run / f"{name}.json").write_text(content)
    text = read(run).text
    assert "metrics.json lacks" in text
    assert "was not evaluated" in text


def test_escapes_whatever_comes_from_data(drawn_run):
    hostile = '<img src=x onerror="alert(1)">\'&</style><script>alert(2)</script>'
    metrics = json.loads((drawn_run / "metrics.json").read_text())
    metrics["per_class"][0]["class_id"] = metrics["classes"][0] = hostile
    metrics["ood"]["sources"] = {hostile: {"support": 1, "auroc": 0.5, "flagged": 0.1}}
    change(drawn_run / "metrics.json", **metrics)
    manifest = json.loads((drawn_run / "manifest.json").read_text())
    manifest["lineage"] |= {"dataset": hostile, "runId": hostile, "hyperparameters": {hostile: hostile}}
    manifest["classes"][0]["displayName"] = hostile
    change(drawn_run / "manifest.json", **manifest)
    change(drawn_run / "published.json", model=hostile)
    change(drawn_run / "environment.json", **{hostile: [hostile, {hostile: hostile}]})
    entry = {"path": "x", "class": hostile, "sha256": "", "reason": hostile}
    change(drawn_run / "splits.json", test=[entry], dropped=[entry])
    (drawn_run / "figures" / "samples_<script>alert(3)<script>.png").write_bytes(
        (drawn_run / "figures" / "per_class.png").read_bytes()
    )
    page = read(drawn_run)
    assert "script" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert hostile in page.text


def test_warns_where_it_should(run):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["per_class"][1]["support"] = 4
    metrics["abstention"]["risk"] = {"value": 0.09, "low": 0.05, "high": 0.13}
    metrics["ood"]["auroc"] = 0.7
    change(run / "metrics.json", **metrics)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["lineage"] |= {"baseWeights": "random", "sourceCommit": "abc-dirty"}
    change(run / "manifest.json", **manifest)
    change(run / "audit.json", counts={"class_conflicts": 2})
    text = read(run).text
    assert "Fewer than 30 test images of meningioma (4)" in text
    assert "does not reach the target" in text
    assert "recognised poorly (AUROC 0.700" in text
    assert "started from random weights" in text
    assert "uncommitted changes" in text
    assert "2 pictures lay under more than one class" in text


def test_says_when_a_version_was_not_published(run):
    (run / "published.json").unlink()
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["version"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "brain_tumor, not published" in read(run).text


def test_refuses_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run folder at"):
        write_report(tmp_path / "nowhere")


def test_writing_twice_replaces_the_page(run):
    write_report(run)
    (run / "metrics.json").unlink()
    assert "metrics.json is missing" in read(run).text
    assert not list(run.glob("*.tmp"))


def test_a_picture_names_what_is_wrong(tmp_path):
    (tmp_path / "a.png").write_bytes(b"GIF89a")
    with pytest.raises(OSError, match="cannot identify"):
        read_picture(tmp_path / "a.png")
