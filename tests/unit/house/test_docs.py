"""The documentation's links, paths, modules and make targets exist, and the house keeps its own rules."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# What the changelog names may be gone.
LIVING = [page for page in PAGES if page.name != "CHANGELOG.md"]
FOREIGN = {"image_dataset_from_directory", "http_proxy", "test_set", "stop_grace_period", "SO_REUSEPORT"}
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+\s+(.*)$", re.MULTILINE)
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
FOLDERS = (
    ".ci",
    "bench",
    "clients",
    "core",
    "docs",
    "gateway",
    "proto",
    "requirements",
    "serving",
    "tests",
    "trainer",
)
SOURCES = [
    str(path.relative_to(ROOT))
    for folder in FOLDERS
    for end in ("py", "proto")
    for path in (ROOT / folder).rglob(f"*.{end}")
]
PACKAGES = {
    parts[-2]: ROOT.joinpath(*parts[:-2])
    for parts in (Path(source).parts for source in SOURCES)
    if parts[-1] == "__init__.py" and parts[-2].startswith("neurogate_")
}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The fragment names that a page's headings give, as code hosts make them."""
    headings = HEADING.findall(page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_path(name: str) -> bool:
    """Whether a path, or a pattern of paths, leads to something from the root, or to sources anywhere."""
    return any(ROOT.glob(name)) or any(f"/{name.rstrip('/')}/" in f"/{source}/" for source in SOURCES)


def is_module(name: str) -> bool:
    """Whether a dotted name is a module, or what one defines; what is in `neurogate.` is the contract's."""
    if name.startswith("neurogate."):
        contract = "".join(path.read_text() for path in (ROOT / "proto/neurogate").rglob("*.proto"))
        return all(re.search(rf"\b{part}\b", contract) for part in name.split("."))
    package, *parts = name.split(".")
    if package not in PACKAGES:
        return False
    path = PACKAGES[package] / package
    for number, part in enumerate(parts):
        if not ((path / part).is_dir() or (path / f"{part}.py").is_file()):
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            return defines(file, ".".join(parts[number:]))
        path = path / part
    return True


def defines(file: Path, name: str) -> bool:
    """Whether each part of a dotted name stands in a file."""
    text = file.read_text()
    return all(re.search(rf"\b{part}\b", text) for part in name.split("."))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for target in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = page if not path else (page.parent / path)
        if not file.exists() or (fragment and fragment not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", LIVING, ids=name_of)
def test_paths_modules_and_targets_that_a_page_names_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    missing = []
    for code in CODE.findall(page.read_text()):
        for word in re.findall(r"[\w.*/{},…-]+", code):
            name = word.strip(",.") if not word.startswith(".ci") else word.rstrip(",.")
            if {"{", "…"} & set(name) or name.endswith(".ts"):
                continue
            known = name.split("/")[0] in {*FOLDERS, *PACKAGES} and "/" in name
            if (known or name.endswith((".py", ".proto"))) and not is_path(name):
                missing.append(name)
            if re.fullmatch(r"neurogate(_\w+)?(\.\w+)+", name) and not is_module(name):
                missing.append(name)
        missing += [
            f"make {name}" for name in re.findall(r"\bmake ([a-z][\w./-]*)", code) if name not in targets
        ]
    assert not missing


def test_the_map_names_what_is_in_its_files() -> None:
    """Rows of docs/architecture.md: | where | `file`, `file` | `name`, `name` |."""
    rows = re.findall(
        r"^\|[^|]+\| (`[^|]+`) \| (`[^|]+`) \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 15
    for files, names in rows:
        listed = re.findall(r"`([^`]+)`", files)
        found = [source for source in SOURCES for file in listed if f"/{source}".endswith(f"/{file}")]
        for name in re.findall(r"`([^`]+)`", names):
            assert any(defines(ROOT / source, name) for source in found), f"{name} is not in {files}"


def test_the_layers_are_those_of_the_import_rules() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [each["layers"] for each in contracts if each.get("containers") == ["neurogate_gateway"]]
    held = [name.strip() for layer in layers for name in layer.split("|")]
    table = (ROOT / "docs/architecture.md").read_text().partition("| Layer |")[2].partition("\n\n")[0]
    shown = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert shown == held


@pytest.fixture(scope="module")
def words() -> set[str]:
    """Every identifier of the sources and their settings, the contract's also without their prefixes."""
    folders = [ROOT / folder for folder in FOLDERS if folder != "docs"]
    ends = {".py", ".proto", ".json", ".toml", ".js", ".config", ".txt"}
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in ends]
    texts = [path.read_text(errors="replace") for path in files if path.stat().st_size < 2**20]
    found = set().union(*(re.findall(r"\w+", text) for text in texts))
    short = {word.partition(f"{kind}_")[2] for word in found for kind in ("REASON", "STATE", "VERDICT")}
    return found | short | {path.stem for path in files} | FOREIGN


@pytest.mark.parametrize("page", LIVING, ids=name_of)
def test_codes_that_a_page_names_are_in_the_sources(page: Path, words: set[str]) -> None:
    """Events of the log, metrics, reasons, settings: `backend_left`, `IMAGE_EMPTY`."""
    codes = set(re.findall(r"`([a-z]+(?:_[a-z0-9]+)+|[A-Z]+(?:_[A-Z]+)+)`", page.read_text()))
    unknown = codes - words
    # Some metrics' names are put together.
    beginnings = tuple(word for word in words if unknown and re.fullmatch(r"neurogate_\w+_", word))
    assert not {code for code in unknown if not code.startswith(beginnings)}


def test_every_page_is_reachable_from_the_readme() -> None:
    linked = {
        (ROOT / target.partition("#")[0]).resolve()
        for target in LINK.findall((ROOT / "README.md").read_text())
    }
    unlinked = [page.name for page in PAGES if page.parent == ROOT / "docs" and page.resolve() not in linked]
    assert not unlinked


def test_the_readme_comes_to_the_point() -> None:
    before_the_pages = (ROOT / "README.md").read_text().partition("## Pages")[0]
    assert len(before_the_pages.split()) <= 500


def test_source_files_stay_readable() -> None:
    """A file is one idea, of about 500 lines at most; the clients are one class each, with the whole API's
    documentation."""
    whole = {f"clients/python/neurogate_client/{name}.py": 800 for name in ("client", "aio")}
    product = [source for source in SOURCES if not source.startswith(("tests/", "proto/"))]
    lengths = {source: len((ROOT / source).read_text().splitlines()) for source in product}
    assert not {source: n for source, n in lengths.items() if n > whole.get(source, 600)}
