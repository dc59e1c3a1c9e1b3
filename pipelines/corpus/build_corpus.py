"""Build sample.parquet, the small corpus that the pipelines read, from packages of Debian 12 (bookworm).

    python3 -m venv .venv && .venv/bin/pip install -r requirements.txt
    .venv/bin/python build_corpus.py            # downloads about 150 MB, writes sample.parquet and licenses/
    .venv/bin/python build_corpus.py --check    # reads sample.parquet back: table, duplicates, README's SHA-256

Needs `apt-get` and `dpkg-deb`, bookworm among the apt sources, and an `apt-get update` before. Installs nothing: each
package is downloaded at the pinned version, its SHA-256 is compared, and it is unpacked into a temporary folder.

Every document is an excerpt of a file that a person wrote or a body published. A file is cut at its own borders
(chapter, section, paragraph, item, record) into documents of about 4 KB. Per source, documents are taken in the order
of a hash of their id until the source's byte budget is spent, so the choice depends on nothing but the packages. Equal
package and pyarrow versions give equal bytes.
"""

import argparse
import functools
import gzip
import hashlib
import itertools
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pyarrow
import pyarrow.parquet

HERE = Path(__file__).resolve().parent
DOMAINS = ["prose", "code", "data", "korean", "other-scripts"]
TARGET_BYTES = 4096  # a document aims at this size or below
MIN_BYTES, MAX_BYTES = 512, 8192  # and is left out beyond these
ROW_GROUP_ROWS = 256

# Name: version, SHA-256 of the .deb (of the amd64 build, where the package has one build per architecture).
PACKAGES = {
    "r-cran-janeaustenr": ("1.0.0-1", "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95"),
    "debian-handbook": ("11.20220922", "3d5dbeac1f1afc9c094eab9d0f701f6ecff99c4927d5a4794cf6c85678134faa"),
    "gnome-user-docs": ("43.0-2", "0d635a840747958ca84da778b40d341f1155603851f922c9a171f5a181d6a39f"),
    "jargon-text": ("4.4.7-4.1", "17d05997e30eb3d5d6713929b8e2f81b63a5f50073858ad2a06701c71f54dcdb"),
    "rust-src": ("1.63.0+dfsg1-2", "410b8c6d464cabbe5fb3154ab8c3d374980dd597fbe7e3b7bb3ed8dd1bf11e25"),
    "python3-networkx": ("2.8.8-1", "69888603d1b54696f5c3d02d05527628d2d18661d845109a62fe24aff241aa7b"),
    "libstb-dev": (
        "0.0~git20220908.8b5f1f3+ds-1",
        "4f85f82942c61845ac96d64d722ef1b2f4897d6662cb98bc5ff78596b8fbb144",
    ),
    "golang-golang-x-net-dev": (
        "1:0.7.0+dfsg-1",
        "ddfa0ab08e6caf68eb51c96f9b8ba7c3ab6c93aada7147c3a20a187e38a9d259",
    ),
    "python3-botocore": ("1.29.27+repack-1", "72802baa29e20716e3a591b39b03dea0ab24ad9d938f7498a04c365d3803c1b7"),
    "ruby-money": ("6.16.0-1", "53e543ddf1b30bb7399bf37b2d8be2ec64518a8c370fb406a16d71e0187b8cb2"),
    "ruby-countries": ("3.0.0-2", "f516338c37f5c0f201183d0400385d74ae21899039e52486b6320010f5e59510"),
    "unicode-cldr-core": ("41-0.1", "35d30d5d3bee4d8244e95236259c4c2a0db06e21bad696515751fcfeee4d0260"),
    "unicode-data": ("15.0.0-1", "5efef23bbb1c6a133ecbdd63a2cfa07159ccacf5466a49e2426101c5ecd691fc"),
    "liblensfun-data-v1": ("0.3.3-1", "03fb8221d69e536519a61bd4c232c3815d3102ea927f604bc5d7a050322cd3ee"),
    "ieee-data": ("20220827.1", "9bf9ec7d59a4273cbb68d2331a045e624e3cfa2500ec65642776976aff1a3026"),
    "python3-statsmodels": ("0.13.5+dfsg-7", "77474ba544c8e18e7932635ef9ab65abc1b8720fb471465d2a6ddd5ea81f08ad"),
    "installation-guide-amd64": (
        "20230508+deb12u1",
        "812c43e1dc906daf671e3efe953dc023205c238e5bd5a3021ce4ca142793573a",
    ),
    "debian-faq-ko": ("11.1", "1e010227c0e7497b836e195beedcda60f3e9b8856f19f211cbbdc5e91b4a5d7a"),
    "libreoffice-help-ko": (
        "4:7.4.7-1+deb12u14",
        "7ef2d854e9ed58e6bf861cfa9fa2579555233f9df874baf327fcb07ccd190669",
    ),
}


class BuildError(Exception):
    """What went wrong and what to do about it, in one message."""


# --- Fetching -------------------------------------------------------------------------------------------------------


def fetch_package(name: str, pin: tuple[str, str], debs: Path, unpacked: Path) -> Path:
    """Download one package at its pinned version (unless `debs` holds it), verify and unpack it; return its root."""
    version, sha256 = pin

    def find() -> Path | None:
        pattern = f"{name}_{version.replace(':', '%3a')}_*.deb"
        return next(iter(sorted(debs.glob(pattern))), None)

    deb = find()
    if deb is None:
        command = ["apt-get", "download", f"{name}={version}"]
        run = subprocess.run(command, cwd=debs, capture_output=True, text=True, check=False)
        deb = find()
        if run.returncode != 0 or deb is None:
            raise BuildError(
                f"apt-get cannot download {name} {version}:\n{run.stderr.strip()}\n"
                "The corpus is built from Debian 12 (bookworm). Run `apt-get update`; if your sources offer another "
                "version (see `apt-cache madison " + name + "`), add one that has this one, for instance a day of "
                "https://snapshot.debian.org, or put the .deb into the folder given by --debs."
            )
    found = hashlib.sha256(deb.read_bytes()).hexdigest()
    if deb.name.endswith(("_all.deb", "_amd64.deb")) and found != sha256:
        raise BuildError(f"{deb}: SHA-256 is {found}, expected {sha256}; delete the file and run again")
    root = unpacked / name
    unpacked.mkdir(exist_ok=True)
    run = subprocess.run(["dpkg-deb", "-x", deb, root], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise BuildError(f"dpkg-deb cannot unpack {deb}: {run.stderr.strip()}")
    return root


def files(root: Path, pattern: str) -> list[Path]:
    """The files under `root` that match, sorted; none is an error, because a source then has moved."""
    found = sorted(path for path in root.glob(pattern) if path.is_file())
    if not found:
        raise BuildError(f"no file matches {pattern} under {root}: the package's layout is not the expected one")
    return found


def read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise BuildError(f"{path} is not valid UTF-8: {error}") from error


# --- Markup to text -------------------------------------------------------------------------------------------------
#
# A markup file becomes a list of blocks, one per paragraph, heading, list item or table cell, with runs of white space
# inside a block folded to one space, as a browser shows it. Listings (pre, screen, code) and navigation are left out.

Blocks = list[str]


def fold(text: str) -> str:
    return re.sub(r"[ \t\r\n\f]+", " ", text).strip(" ")


class HtmlBlocks(HTMLParser):
    BLOCK = set("p div h1 h2 h3 h4 h5 h6 li dt dd td th tr ul ol dl table blockquote section br hr title".split())
    SKIP = set("head script style noscript nav header footer aside pre button select".split())
    SKIP_CLASS = set("navheader navfooter docnav toc index screen programlisting legalnotice relatedtopics".split())
    SKIP_ID = {("p", "title"), ("div", "banner")}  # what the handbook's pages all repeat at their top

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: Blocks = []
        self.text: list[str] = []
        self.skipped_tag, self.depth = None, 0

    def flush(self) -> None:
        block = fold("".join(self.text))
        self.text = []
        if block:
            self.blocks.append(block)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if self.skipped_tag:
            self.depth += tag == self.skipped_tag
            return
        attributes = dict(attrs)
        classes = (attributes.get("class") or "").split()
        if tag in self.SKIP or self.SKIP_CLASS.intersection(classes) or (tag, attributes.get("id")) in self.SKIP_ID:
            self.flush()
            self.skipped_tag, self.depth = tag, 1
        elif tag in self.BLOCK:
            self.flush()

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        if not self.skipped_tag and tag in self.BLOCK:
            self.flush()

    def handle_endtag(self, tag: str) -> None:
        if self.skipped_tag:
            self.depth -= tag == self.skipped_tag
            if self.depth == 0:
                self.skipped_tag = None
        elif tag in self.BLOCK:
            self.flush()

    def handle_data(self, data: str) -> None:
        if not self.skipped_tag:
            self.text.append(data)


def html_blocks(path: Path) -> Blocks:
    parser = HtmlBlocks()
    parser.feed(read(path))
    parser.close()
    parser.flush()
    return parser.blocks


MALLARD = "{http://projectmallard.org/1.0/}"


def mallard_blocks(path: Path) -> Blocks:
    """Titles and paragraphs of a GNOME help page, in order; `info` (credits, revisions) and listings are left out."""
    blocks: Blocks = []

    def walk(element: ElementTree.Element) -> None:
        for child in element:
            tag = child.tag.removeprefix(MALLARD) if isinstance(child.tag, str) else ""
            if tag in ("title", "p"):
                block = fold("".join(child.itertext()))
                if block:
                    blocks.append(block)
            elif tag not in ("info", "screen", "code", "comment", "media"):
                walk(child)

    try:
        walk(ElementTree.fromstring(path.read_bytes()))
    except ElementTree.ParseError as error:
        raise BuildError(f"{path} is not well-formed XML: {error}") from error
    return blocks


# --- Cutting into documents -----------------------------------------------------------------------------------------


def size(text: str) -> int:
    return len(text.encode("utf-8"))


def pack(blocks: Blocks, separator: str) -> Iterator[str]:
    """Join neighbouring blocks into documents of about equal size, none aiming above TARGET_BYTES."""
    total = sum(size(block) + len(separator) for block in blocks)
    goal = total / max(1, -(-total // TARGET_BYTES))
    taken: Blocks = []
    taken_bytes = done_bytes = parts = 0
    for block in blocks:
        taken.append(block)
        taken_bytes += size(block) + len(separator)
        # Against the running total, so that rounding at block borders does not pile up into a tiny last part.
        if done_bytes + taken_bytes >= (parts + 1) * goal:
            yield separator.join(taken)
            done_bytes, parts, taken, taken_bytes = done_bytes + taken_bytes, parts + 1, [], 0
    if taken:
        yield separator.join(taken)


def split_lines(lines: list[str], limit: int = TARGET_BYTES // 2) -> list[str]:
    """Cut indented text (code, JSON, XML, YAML) before lines of the least indentation, deeper only where a piece stays
    above `limit` bytes. A cut after an empty line is preferred; a closing bracket or tag stays with what it closes."""
    text = "\n".join(lines)
    if size(text) <= limit or len(lines) < 4:
        return [text]
    indents = {i: len(line) - len(line.lstrip()) for i, line in enumerate(lines) if line.strip()}
    for indent in sorted(set(indents.values())):
        at_indent = [i for i, n in indents.items() if 0 < i and n == indent and lines[i].lstrip()[0] not in "})]"]
        at_indent = [i for i in at_indent if not lines[i].lstrip().startswith("</")]
        cuts = [i for i in at_indent if not lines[i - 1].strip()] or at_indent
        if cuts:
            edges = [0, *cuts, len(lines)]
            return [piece for a, b in itertools.pairwise(edges) for piece in split_lines(lines[a:b], limit)]
    return [text]


@dataclass
class Document:
    id: str
    domain: str
    source: str
    work: str  # documents of one work must not be on both sides of a split
    text: str

    def order(self) -> str:
        """In which order documents are taken until the budget is spent."""
        return sha256(self.id)


Parts = Iterator[tuple[str, Blocks, str]]  # key (path or title), blocks, separator


# --- Readers: what each source yields -------------------------------------------------------------------------------


def austen(root: Path) -> Parts:
    """Chapters of the novels. R keeps each as a zlib member holding a serialised character vector, one per line."""
    (path,) = files(root, "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
    data = path.read_bytes()
    while data:
        inflate = zlib.decompressobj()
        raw = inflate.decompress(data[4:])  # behind the 4 bytes of the inflated length
        data = inflate.unused_data
        if raw[:6] != b"X\n\0\0\0\x03":
            raise BuildError(f"{path}: expected R's XDR serialisation, version 3")
        (encoding_bytes,) = struct.unpack_from(">I", raw, 14)
        at = 18 + encoding_bytes
        kind, count = struct.unpack_from(">II", raw, at)
        if kind & 0xFF != 16:
            raise BuildError(f"{path}: expected a character vector, found R type {kind & 0xFF}")
        at += 8
        lines = []
        for _ in range(count):
            (length,) = struct.unpack_from(">4xI", raw, at)
            lines.append(raw[at + 8 : at + 8 + length].decode("utf-8"))
            at += 8 + length
        title = lines[0].title()
        chapters = re.split(r"\n(?=(?:CHAPTER|Chapter) [0-9IVXL]+)", "\n".join(lines))
        for number, chapter in enumerate(chapters[1:], 1):
            yield f"{title}/chapter-{number:02}", re.split(r"\n{2,}", chapter.strip("\n")), "\n\n"


def jargon(root: Path) -> Parts:
    """The Jargon File's chapters and glossary, without the tables of contents and the list of revisions."""
    (path,) = files(root, "usr/share/doc/jargon-text/jargon.txt.gz")
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    for section in re.split(r"\n(?=Chapter \d+\. |Glossary\n|Appendix [A-C]\. |   :[^\n]+:)", text)[1:]:
        title = fold(section.strip().split("\n")[0])
        if title.startswith("Chapter 3. "):
            continue
        key = "glossary/" + title[1:].split(":")[0] if title.startswith(":") else title
        blocks = re.split(r"\n{2,}", section.strip("\n"))
        short = [block for block in blocks[1:] if "\n" not in block and len(block) <= 45]
        # Many short lines are a list of headwords: the table of contents that opens the next letter.
        if len(short) >= 8:
            blocks = [block for block in blocks if block not in short]
        yield key, blocks, "\n\n"


def mallard(language: str) -> Callable[[Path], Parts]:
    def reader(root: Path) -> Parts:
        base = root / "usr/share/help" / language
        for path in files(base, "*/*.page"):
            yield str(path.relative_to(base)), mallard_blocks(path), "\n\n"

    return reader


def html(folder: str, pattern: str = "*.html") -> Callable[[Path], Parts]:
    def reader(root: Path) -> Parts:
        for path in files(root / folder, pattern):
            if not path.name.startswith("index."):  # title page and table of contents
                yield str(path.relative_to(root / folder)), html_blocks(path), "\n\n"

    return reader


HANDBOOK = "usr/share/doc/debian-handbook/html/"
GUIDE = "usr/share/doc/installation-guide-amd64/"
LICENCE_COMMENT = re.compile(
    r"\A(?:(?:#|//)[^\n]*\n)*(?:#|//)[^\n]*(?:[Cc]opyright|license)[^\n]*\n(?:(?:#|//)[^\n]*\n)*\n*"
    r"|^<!--\s*Copyright.*?-->\n",
    re.DOTALL | re.MULTILINE,
)


def indented(folder: str, *patterns: str, exclude: str = r"(?!)") -> Callable[[Path], Parts]:
    """Files whose layout shows their structure. Licence comments at the top are stripped: they are in licenses/."""

    def reader(root: Path) -> Parts:
        base = root / folder
        for path in sorted({path for pattern in patterns for path in files(base, pattern)}):
            key = str(path.relative_to(base))
            text = read(path)
            if re.search(exclude, key) or re.search(r"(?i)\A.{0,300}code generated|automatically generated", text):
                continue
            pieces = split_lines(LICENCE_COMMENT.sub("", text, count=1).strip("\n").split("\n"))
            yield key, [piece for piece in pieces if "ALTERNATIVE A - MIT License" not in piece], "\n"

    return reader


def records(folder: str, *patterns: str) -> Callable[[Path], Parts]:
    """One record per line (CSV and the like)."""

    def reader(root: Path) -> Parts:
        for path in (path for pattern in patterns for path in files(root / folder, pattern)):
            yield str(path.relative_to(root / folder)), read(path).strip("\n").split("\n"), "\n"

    return reader


def one_to_a_document(reader: Callable[[Path], Parts]) -> Callable[[Path], Parts]:
    """Group neighbouring short sections under the first one's key, so that glossary entries fill a document."""

    def grouped(root: Path) -> Parts:
        key, blocks, total = "", [], 0
        for next_key, next_blocks, separator in reader(root):
            if blocks and total + sum(map(size, next_blocks)) > TARGET_BYTES:
                yield key, blocks, separator
                blocks, total = [], 0
            key = key if blocks else next_key
            blocks = blocks + next_blocks
            total += sum(map(size, next_blocks))
        yield key, blocks, separator

    return grouped


# --- Sources --------------------------------------------------------------------------------------------------------

LATIN, HANGUL, KANA_HAN, HAN = "A-Za-z", "가-힣", "぀-ヿ一-鿿", "一-鿿"
CYRILLIC, GREEK, ARABIC, TAMIL = "Ѐ-ӿ", "Ͱ-Ͽἀ-῿", "؀-ۿ", "஀-௿"


# Ends of source names that are editions of one collection: translations, and two kinds of files about one service.
EDITION = re.compile(r"-(?:en|ko|ja|zh|el|ru|ar|fa|uk|ta|(?:examples|services)-json)$")


def first(pattern: str) -> Callable[[str], str]:
    """What `pattern` finds first in a key; where it finds nothing, the key."""

    def work(key: str) -> str:
        found = re.search(pattern, key)
        return found[0] if found else key

    return work


@dataclass
class Source:
    name: str  # first part of the ids
    domain: str
    package: str
    budget: int  # bytes of text at most
    reader: Callable[[Path], Parts]
    script: str | None = None  # a regex class: most letters of each document must be in it
    work: Callable[[str], str] = first(".+")  # of a key; the key itself is a page or a file

    def work_of(self, key: str) -> str:
        return f"{EDITION.sub('', self.name)}/{self.work(key)}"

    def documents(self, root: Path) -> Iterator[Document]:
        for key, blocks, separator in self.reader(root):
            # In a translation, whole paragraphs are often still in English.
            if self.domain in ("korean", "other-scripts"):
                blocks = [block for block in blocks if not untranslated(block, self.script)]
            for number, text in enumerate(pack(blocks, separator), 1):
                yield Document(f"{self.name}/{key}#{number}", self.domain, self.name, self.work_of(key), text)


PYTHON = "usr/lib/python3/dist-packages/"
GEMS = "usr/share/rubygems-integration/all/gems/"
COUNTRIES = GEMS + "countries-3.0.0/lib/countries/data"
BOTOCORE = PYTHON + "botocore/data"
STATSMODELS = [  # those that Debian's copyright file lists as public domain
    f"{name}/{name}.csv" for name in "anes96 grunfeld longley macrodata nile randhie stackloss strikes sunspots".split()
]
TABLES_AND_TESTS = r"unicode/unicode_data\.rs|(^|/)(tables?|entity)[^/]*\.(rs|go)|_test\.go|/tests?/|/benches/"

SOURCES = [
    Source("austen", "prose", "r-cran-janeaustenr", 1_150_000, austen, LATIN, first("[^/]+")),
    Source("debian-handbook-en", "prose", "debian-handbook", 600_000, html(HANDBOOK + "en-US"), LATIN),
    Source(
        "jargon-file",
        "prose",
        "jargon-text",
        500_000,
        one_to_a_document(jargon),
        LATIN,
        # Of the glossary, a letter: neighbours explain words of one stem.
        lambda key: first("glossary/.|.+")(key).lower(),
    ),
    Source("gnome-help-en", "prose", "gnome-user-docs", 350_000, mallard("C"), LATIN),
    Source(
        "rust-library",
        "code",
        "rust-src",
        1_300_000,
        indented(
            "usr/src/rustc-1.63.0/library",
            "core/src/**/*.rs",
            "alloc/src/**/*.rs",
            "std/src/**/*.rs",
            exclude=TABLES_AND_TESTS,
        ),
        work=first(r"\w+/src/\w+"),  # a crate's module with all below it
    ),
    Source(
        "networkx",
        "code",
        "python3-networkx",
        600_000,
        indented(PYTHON + "networkx", "**/*.py", exclude=r"(^|/)tests/"),
        work=first(r"\w+(?:/\w+)?"),  # a module or package of networkx, or of its first level
    ),
    Source("stb", "code", "libstb-dev", 400_000, indented("usr/include/stb", "*.h", exclude=r"^stb\.h$")),
    Source(
        "go-net",
        "code",
        "golang-golang-x-net-dev",
        300_000,
        indented("usr/share/gocode/src/golang.org/x/net", "**/*.go", exclude=TABLES_AND_TESTS),
        work=first(r".+(?=/)"),  # a package
    ),
    Source(
        "aws-examples-json",
        "data",
        "python3-botocore",
        400_000,
        indented(BOTOCORE, "*/*/examples-1.json"),
        work=first("[^/]+"),  # a service
    ),
    Source(
        "aws-services-json",
        "data",
        "python3-botocore",
        350_000,
        indented(BOTOCORE, "[a-k]*/*/service-2.json"),
        work=first("[^/]+"),
    ),
    Source("currencies-json", "data", "ruby-money", 100_000, indented(GEMS + "money-6.16.0/config", "*.json")),
    Source(
        "countries-yaml",
        "data",
        "ruby-countries",
        350_000,
        indented(COUNTRIES, "**/*.yaml"),
        work=first(r"(?<=/)\w+"),  # a country, described in one folder and subdivided in the other
    ),
    Source(
        "cldr-xml",
        "data",
        "unicode-cldr-core",
        400_000,
        indented("usr/share/unicode/cldr/common", "main/*.xml", "supplemental/*.xml"),
        work=first("main/[a-z]+|.+"),  # a language in all its countries and scripts
    ),
    Source("lensfun-xml", "data", "liblensfun-data-v1", 350_000, indented("usr/share/lensfun/version_1", "*.xml")),
    Source("ieee-oui-csv", "data", "ieee-data", 300_000, records("usr/share/ieee-data", "oui.csv")),
    Source(
        "statsmodels-csv",
        "data",
        "python3-statsmodels",
        150_000,
        records(PYTHON + "statsmodels/datasets", *STATSMODELS),
    ),
    Source("unicode-data", "data", "unicode-data", 200_000, records("usr/share/unicode", "UnicodeData.txt")),
    Source("installation-guide-ko", "korean", "installation-guide-amd64", 500_000, html(GUIDE + "ko"), HANGUL),
    Source("gnome-help-ko", "korean", "gnome-user-docs", 600_000, mallard("ko"), HANGUL),
    Source("debian-faq-ko", "korean", "debian-faq-ko", 200_000, html("usr/share/doc/debian/FAQ/ko"), HANGUL),
    Source(
        "libreoffice-help-ko",
        "korean",
        "libreoffice-help-ko",
        1_100_000,
        html("usr/share/libreoffice/help/ko/text", "*/**/*.html"),
        HANGUL,
    ),
    Source("installation-guide-ja", "other-scripts", "installation-guide-amd64", 400_000, html(GUIDE + "ja"), KANA_HAN),
    Source("installation-guide-zh", "other-scripts", "installation-guide-amd64", 300_000, html(GUIDE + "zh_CN"), HAN),
    Source("installation-guide-el", "other-scripts", "installation-guide-amd64", 250_000, html(GUIDE + "el"), GREEK),
    Source("debian-handbook-ru", "other-scripts", "debian-handbook", 350_000, html(HANDBOOK + "ru-RU"), CYRILLIC),
    Source("debian-handbook-ar", "other-scripts", "debian-handbook", 300_000, html(HANDBOOK + "ar-MA"), ARABIC),
    Source("debian-handbook-fa", "other-scripts", "debian-handbook", 200_000, html(HANDBOOK + "fa-IR"), ARABIC),
    Source("gnome-help-uk", "other-scripts", "gnome-user-docs", 200_000, mallard("uk"), CYRILLIC),
    Source("gnome-help-ta", "other-scripts", "gnome-user-docs", 200_000, mallard("ta"), TAMIL),
]


# --- Choosing documents ---------------------------------------------------------------------------------------------


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def script_share(text: str, script: str) -> float:
    letters = sum(c.isalpha() for c in text)
    return len(re.findall(f"[{script}]", text)) / letters if letters else 0.0


def untranslated(block: str, script: str) -> bool:
    return sum(c.isalpha() for c in block) >= 20 and script_share(block, script) < 0.3


@functools.lru_cache(maxsize=1)  # a text is compared, and then kept
def shingles(text: str, length: int = 48, keep: int = 8) -> set[int]:
    """A sample (one of `keep`, by value) of the hashes of all `length`-byte windows, white space folded."""
    data = " ".join(text.split()).encode("utf-8")
    hashes = (zlib.crc32(data[i : i + length]) for i in range(max(1, len(data) - length + 1)))
    return {value for value in hashes if value % keep == 0}


class Selection:
    """Takes documents source by source and says why others were left out."""

    def __init__(self, min_bytes: int = MIN_BYTES) -> None:
        self.min_bytes = min_bytes
        self.documents: list[Document] = []
        self.left_out: Counter[tuple[str, str]] = Counter()
        self.ids: set[str] = set()
        self.folded: set[str] = set()
        self.shingle_owner: dict[int, list[int]] = defaultdict(list)

    def reason_against(self, source: Source, text: str) -> str | None:
        if not self.min_bytes <= size(text) <= MAX_BYTES:
            return "size"
        # In a translation, a third of the letters may be names, commands and paths; English prose has no such excuse.
        if source.script and script_share(text, source.script) < (0.95 if source.script == LATIN else 0.6):
            return "script"
        # Code that is a table of numbers is data in disguise.
        if source.domain == "code" and sum(c.isalpha() for c in text) < 0.35 * sum(not c.isspace() for c in text):
            return "numbers"
        if " ".join(text.split()) in self.folded:
            return "duplicate"
        sample = shingles(text)
        shared = Counter(owner for value in sample for owner in self.shingle_owner[value])
        if sample and max(shared.values(), default=0) > 0.5 * len(sample):
            return "near-duplicate"
        return None

    def take(self, source: Source, root: Path) -> None:
        candidates = sorted(source.documents(root), key=lambda document: document.order())
        spent = 0
        for document in candidates:
            if document.id in self.ids:
                raise BuildError(f"two documents are called {document.id}")
            self.ids.add(document.id)
            if spent + size(document.text) > source.budget:
                self.left_out[source.name, "budget"] += 1
                continue
            reason = self.reason_against(source, document.text)
            if reason:
                self.left_out[source.name, reason] += 1
                continue
            for value in shingles(document.text):
                self.shingle_owner[value].append(len(self.documents))
            self.folded.add(" ".join(document.text.split()))
            self.documents.append(document)
            spent += size(document.text)
        if spent == 0:
            raise BuildError(f"source {source.name} gave no document")


# --- Writing and checking -------------------------------------------------------------------------------------------


def write_parquet(documents: list[Document], path: Path) -> None:
    """One file, rows in the order of a hash of their id, so that every row group mixes the domains."""
    rows = sorted(documents, key=lambda document: sha256("order/" + document.id))
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(rows[0])}
    schema = pyarrow.schema([pyarrow.field(name, pyarrow.string(), nullable=False) for name in columns])
    pyarrow.parquet.write_table(
        pyarrow.table(columns, schema=schema),
        path,
        row_group_size=ROW_GROUP_ROWS,
        compression="zstd",
        compression_level=19,
        use_dictionary=[name for name in columns if name not in ("id", "text")],
        write_statistics=[name for name in columns if name != "text"],
        version="2.6",
        data_page_version="1.0",
        store_schema=False,
    )


def write_licenses(roots: dict[str, Path]) -> None:
    """Each package's copyright file, and the authors and translators that the GNOME pages used here name."""
    folder = HERE / "licenses"
    folder.mkdir(exist_ok=True)
    for name, root in sorted(roots.items()):
        shutil.copyfile(root / "usr/share/doc" / name / "copyright", folder / f"{name}.txt")
    lines = ["Authors and translators named by the GNOME help pages (CC BY-SA 3.0), per language\n"]
    for source in (source for source in SOURCES if source.package == "gnome-user-docs"):
        language = "C" if source.name.endswith("-en") else source.name.rsplit("-", 1)[1]
        names = set()
        for path in files(roots["gnome-user-docs"] / "usr/share/help" / language, "*/*.page"):
            for credit in ElementTree.fromstring(path.read_bytes()).iter(MALLARD + "credit"):
                names.update(fold(name.text or "") for name in credit.iter(MALLARD + "name"))
        lines.append(f"{source.name}: {', '.join(sorted(names - {''}))}\n")
    (folder / "gnome-user-docs-credits.txt").write_text("\n".join(lines), encoding="utf-8")


def check(path: Path) -> None:
    """Read the file back, print its table, and fail unless it keeps what README.md says of it."""
    file = pyarrow.parquet.ParquetFile(path)
    rows = file.read().to_pylist()
    texts = {" ".join(row["text"].split()) for row in rows}
    if len(texts) != len(rows) or len({row["id"] for row in rows}) != len(rows):
        raise BuildError(f"{path}: duplicate texts or ids among {len(rows)} rows")
    by_domain = defaultdict(list)
    for row in rows:
        by_domain[row["domain"]].append(row)
    if sorted(by_domain) != sorted(DOMAINS):
        raise BuildError(f"{path}: domains are {sorted(by_domain)}, expected {sorted(DOMAINS)}")
    print("| domain | documents | bytes | mean bytes a document | sources | works |")
    print("|---|---:|---:|---:|---:|---:|")
    for domain in [*DOMAINS, "all"]:
        chosen = rows if domain == "all" else by_domain[domain]
        total = sum(size(row["text"]) for row in chosen)
        sources, works = ({row[column] for row in chosen} for column in ("source", "work"))
        print(f"| {domain} | {len(chosen)} | {total} | {total // len(chosen)} | {len(sources)} | {len(works)} |")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"\n{path.name}: {path.stat().st_size} bytes, {file.num_row_groups} row groups, SHA-256 {digest}")
    readme = HERE / "README.md"
    if readme.exists() and digest not in readme.read_text(encoding="utf-8"):
        raise BuildError(f"README.md names another SHA-256 than {digest}; if the change is meant, record it there")


def main() -> None:
    parser = argparse.ArgumentParser(description="Build or check sample.parquet.")
    parser.add_argument("--check", action="store_true", help="only read the file back and check it")
    parser.add_argument("--output", type=Path, default=HERE / "sample.parquet", help="the Parquet file")
    parser.add_argument("--debs", type=Path, help="keep the downloaded packages in this folder, and reuse them")
    arguments = parser.parse_args()
    if not arguments.check:
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise BuildError(
                    f"{tool} is not installed: the sources are Debian packages, so build on Debian or in "
                    "a container of it"
                )
        with tempfile.TemporaryDirectory() as folder:
            debs = arguments.debs.resolve() if arguments.debs else Path(folder, "debs")
            debs.mkdir(parents=True, exist_ok=True)
            roots = {name: fetch_package(name, pin, debs, Path(folder, "unpacked")) for name, pin in PACKAGES.items()}
            selection = Selection()
            for source in SOURCES:
                selection.take(source, roots[source.package])
            write_licenses(roots)
        counts = Counter(document.source for document in selection.documents)
        for source in SOURCES:
            left_out = {why: n for (name, why), n in sorted(selection.left_out.items()) if name == source.name}
            reasons = ", ".join(f"{n} {why}" for why, n in left_out.items())
            spent = sum(size(d.text) for d in selection.documents if d.source == source.name)
            print(f"{source.name:24} {counts[source.name]:5} documents {spent:9} bytes; left out: {reasons or 'none'}")
        write_parquet(selection.documents, arguments.output)
        print()
    check(arguments.output)


if __name__ == "__main__":
    try:
        main()
    except (BuildError, OSError, pyarrow.ArrowException) as error:
        sys.exit(f"build_corpus.py: {error}")
