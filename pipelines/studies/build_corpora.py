"""Build the corpora of the studies, which are not committed: english, korean, chinese, code, english_18mb.

    python3 -m venv .venv && .venv/bin/pip install -r requirements.txt
    .venv/bin/python build_corpora.py            # writes corpora/*.parquet; about a quarter of an hour

Downloads packages of Debian 12 as ../corpus/build_corpus.py does, whose readers and choice it uses; corpora.md is the
data card.

Most documents are a page of a manual, or messages of a program, that exist in several languages. `topic` names them
alike in all of them: a split by topic holds out the same pages everywhere. Files get equal bytes: first of the topics
that are translated into Korean, the scarcest, then of others.
"""

import argparse
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polib
import pyarrow

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "corpus"))

import build_corpus as base  # noqa: E402
from build_corpus import BuildError, Parts, Source, first, html, mallard, size  # noqa: E402

MIN_BYTES = 256  # many pages of help are short

PACKAGES = {
    **base.PACKAGES,
    "libreoffice-help-en-us": (
        "4:7.4.7-1+deb12u14",
        "8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712",
    ),
    "libreoffice-help-zh-cn": (
        "4:7.4.7-1+deb12u14",
        "db867cdece4c2f9c7eebe65e519c6cf386fdcf49d6e061db3dffec893b3e1dee",
    ),
    "gimp-help-en": ("2.10.34-2", "a2deec76763aaf2fcdd197bac0736cdcb0770ba993d48d233329e1c92b0bfe36"),
    "gimp-help-ko": ("2.10.34-2", "c8094280b19d858cc32b6d9278d7d6126bf41c05f6fcc45d2c07ee41b68f750b"),
    "gimp-help-zh-cn": ("2.10.34-2", "4b2c2c8c0e92dde4d278d668e0ae83fd3731ef1e717d76240ae60339b703efda"),
    "debian-faq": ("11.1", "427426e0cfa6888622fc1d72631071cb4b5a1f86ccde722e7820bcef284de5d0"),
    "debian-faq-zh-cn": ("11.1", "3545356b1aa04d87e91dd15e8406210cf5b4f476662e597897bcb42234591758"),
    "debian-history": ("2.28", "ae364cdfd075bf6a08ca8f5105b44db7093e3b201c95d3b70a863b8849c6a082"),
    "evince-common": ("43.1-2+deb12u1", "777ea7d094db2acd7b385e272b0ba6cf03c7e45d574e6f2c689b507de3d95dbb"),
    "gnome-terminal-data": ("3.46.8-1", "7702598bf2f81b6ec713d14867e367d9f5f2f91580c233db0dadc4c31c2f227d"),
    "eog": ("43.2-1+deb12u1", "986338ef28f9dc57141f11c27df27b453f95bbe460d44f4a9ec6c7d815e9ccc2"),
    "gnome-system-monitor": ("42.0-2", "fb6f0c54b9af1a17e1d047dccbe4a8df6b54fe2cde4cb6a214d78dabbee3ea68"),
    "epiphany-browser-data": ("43.1-1", "6577aed576ec670fa33ee70a4001d1200cf1cf80745bc58267aa273488cc24fd"),
    "gnome-calculator": ("1:43.0.1-2", "395526cc25086a0ad15cdcd6daf403e5eb542cfe494de743e2e9394c39a0f065"),
    "cataclysm-dda-data": ("0.F-3-9", "cd0c097169fe364fdb6bcdab77663d24920a063387ce2fbf1b5d3be01c141105"),
    "blender-data": ("3.4.1+dfsg-2", "5ceaf56a49ba3ded95c751d739aeec3d19e7fad76fba5cb70666986af9303b0e"),
    "inkscape": ("1.2.2-2+deb12u1", "838dc6b30685055a4ff963931c458e5ea3e3fb0459c43a890a85663339233032"),
    "krita-l10n": ("1:5.1.5+dfsg-2+deb12u1", "ad2b1d244e1021b4f56637b9e9109d5d512c8b457d13945cfae8296e294da1ac"),
    "evolution-common": ("3.46.4-2+deb12u1", "52e3a67ba3f2815fa864f600f5e3c2afd6ebc0b3487b50525df75006d4172b46"),
    "digikam-data": ("4:7.9.0-1", "a941a504ba7bdf9d276a43ca3c2a0b2b5b74a55420d8c4b4f29d681e96cbf450"),
    "kmymoney-common": ("5.1.3-1", "9c42d420f6f1842b7829c9eefa6ca10a344e3840555930fbf7ccedf0865949dd"),
    "freeciv-data": ("3.0.6-1+deb12u1", "278bed022b87408ca9923aa727bef3d6c97875c811723e93ff95dded1b9b76b2"),
    "wordpress-l10n": ("6.1.9+dfsg1-0+deb12u1", "0b0dd58213c72a1fd27dfcaef04a35d11f930554ab2562193c628cbf1e490b1a"),
    "anarchism": ("15.3-3", "cf21c10948b00e923c62eb31c39a3390413fa26c5ee0e3b925feb0ec7fe42948"),
    "postgresql-doc-15": ("15.20-0+deb12u1", "4c44bf2c599f208b3f46454a6cf7a72e25ec46ff74d37b59dd31ad76b00eebb7"),
    "libpython3.11-stdlib": ("3.11.2-6+deb12u9", "10f13e000ee757f5f2d2d3569f9e30546214a0c850acd78695feae373bfa3e53"),
    "golang-1.19-src": ("1.19.8-2", "2dfa82fe4f08f4e0193c532e561af4c91871f5235608f04f2bb8d57bb288df5a"),
    "gimp-data": ("2.10.34-1+deb12u10", "89007a69d4ef2b0440e5419e75d4112cfd1c49e97db38220d210b9f86322be7c"),
}


# --- Readers --------------------------------------------------------------------------------------------------------

Pairs = Iterator[tuple[str, str]]  # what a catalogue translates, and its translation


def pairs(path: Path, entries: polib.POFile | polib.MOFile) -> Pairs:
    for entry in entries:
        translation = entry.msgstr or entry.msgstr_plural.get(0, "")
        if translation and not entry.obsolete:
            yield entry.msgid, translation


WORDS = 6  # of the original, for a message to be a sentence


def messages(pattern: str, language: "Language", groups: int) -> Callable[[Path], Parts]:
    """Sentences of a program's messages. A key is some of them, chosen by a hash of the original: a catalogue keeps
    no order, and the same messages make a key in every language."""

    def reader(root: Path) -> Parts:
        grouped = defaultdict(list)
        (path,) = base.files(root, pattern.format(language.catalogue))
        for original, translation in pairs(path, polib.mofile(str(path))):
            if len(original.split()) >= WORDS:
                text = translation if language.code != "en" else original
                key = int(base.sha256(original), 16) % groups
                grouped[key].append(re.sub(r"</?[A-Za-z][^<>]*>", "", text).strip())
        for key, texts in sorted(grouped.items()):
            yield f"{key:03}", texts, "\n\n"

    return reader


# --- Sources --------------------------------------------------------------------------------------------------------


@dataclass
class StudyDocument(base.Document):
    topic: str  # what the document is about, alike in all languages

    def order(self) -> str:
        """By topic, so that languages get the same; code has no editions, and gets a part of each topic."""
        return super().order() if self.domain == "code" else f"{base.sha256(self.topic)} {self.id}"


@dataclass
class StudySource(Source):
    collection: str = ""  # what its editions in several languages are called together
    seen: set[str] | None = None  # paragraphs of the corpus so far

    def fresh(self, block: str) -> bool:
        """Whether a paragraph is in the language, and was not there before. Headings and the like may come again."""
        if sum(c.isalpha() for c in block) < 20:
            return True
        if self.script and self.script != base.LATIN and base.untranslated(block, self.script):
            return False
        folded = " ".join(block.split())
        known = folded in self.seen
        self.seen.add(folded)
        return not known

    def documents(self, root: Path) -> Iterator[StudyDocument]:
        for key, blocks, separator in self.reader(root):
            if separator == "\n\n":  # prose
                blocks = [block for block in blocks if self.fresh(block)]
            part = self.work(key)
            work, topic = f"{self.name}/{part}", f"{self.collection or self.name}/{part}"
            for number, text in enumerate(base.pack(blocks, separator), 1):
                yield StudyDocument(f"{self.name}/{key}#{number}", self.domain, self.name, work, text, topic)


@dataclass
class Language:
    """How the collections spell a language."""

    code: str
    script: str
    libreoffice: str  # LibreOffice's help
    gettext: str  # GNOME help, GIMP's manual, the installation guide
    catalogue: str  # folder of messages; of English, any that is nearly complete
    faq: str
    handbook: str


LANGUAGES = {
    "english": Language("en", base.LATIN, "en-US", "C", "ko", "en", "en-US"),
    "korean": Language("ko", base.HANGUL, "ko", "ko", "ko", "ko", "ko-KR"),
    "chinese": Language("zh", base.HAN, "zh-CN", "zh_CN", "zh_CN", "zh-cn", "zh-CN"),
}

GNOME = (
    "gnome-user-docs evince-common gnome-terminal-data eog gnome-system-monitor epiphany-browser-data gnome-calculator"
).split()
MESSAGES = {  # package: where its catalogue is, and into how many groups the messages go
    "cataclysm-dda-data": ("usr/share/locale/{}/LC_MESSAGES/cataclysm-dda.mo", 256),
    "blender-data": ("usr/share/locale/{}/LC_MESSAGES/blender.mo", 128),
    "inkscape": ("usr/share/locale/{}/LC_MESSAGES/inkscape.mo", 64),
    "krita-l10n": ("usr/share/locale/{}/LC_MESSAGES/krita.mo", 64),
    "evolution-common": ("usr/share/locale/{}/LC_MESSAGES/evolution.mo", 32),
    "digikam-data": ("usr/share/locale/{}/LC_MESSAGES/digikam.mo", 64),
    "kmymoney-common": ("usr/share/locale/{}/LC_MESSAGES/kmymoney.mo", 64),
    "freeciv-data": ("usr/share/locale/{}/LC_MESSAGES/freeciv-core.mo", 32),
    "gimp-data": ("usr/share/locale/{}/LC_MESSAGES/gimp20.mo", 32),
    "wordpress-l10n": ("usr/share/wordpress/wp-content/languages/admin-{}.mo", 32),
}
NOT_IN_CHINESE = {"debian-history", "eog", "gnome-terminal-data", "gnome-system-monitor"}
ALL = 1 << 40  # a budget that takes everything


def documentation(domain: str) -> list[StudySource]:
    """Manuals and messages that exist in several languages."""
    language = LANGUAGES[domain]

    def source(collection: str, package: str, reader: Callable[[Path], Parts], work: str = ".+") -> StudySource:
        name = f"{collection}-{language.code}"
        return StudySource(name, domain, package, ALL, reader, language.script, first(work), collection)

    code, gettext = language.code, language.gettext
    guide = gettext if code != "en" else "en"
    help_package = {"en": "libreoffice-help-en-us", "ko": "libreoffice-help-ko", "zh": "libreoffice-help-zh-cn"}[code]
    gimp_package = {"en": "gimp-help-en", "ko": "gimp-help-ko", "zh": "gimp-help-zh-cn"}[code]
    faq_package = {"en": "debian-faq", "ko": "debian-faq-ko", "zh": "debian-faq-zh-cn"}[code]
    faq = "usr/share/doc/debian/FAQ" + ("" if code == "en" else f"/{language.faq}")
    help_folder = f"usr/share/libreoffice/help/{language.libreoffice}/text"
    sources = [
        source("libreoffice-help", help_package, html(help_folder, "*/**/*.html")),
        source("gimp-help", gimp_package, html(f"usr/share/gimp/2.0/help/{guide}")),
        source("installation-guide", "installation-guide-amd64", html(base.GUIDE + guide)),
        source("debian-faq", faq_package, html(faq, f"*.{language.faq}.html"), r"[^.]+"),
        source("debian-handbook", "debian-handbook", html(base.HANDBOOK + language.handbook)),
    ]
    pages = html("usr/share/doc/debian-history/docs", f"*.{code}.html")
    sources.append(source("debian-history", "debian-history", pages, r"[^.]+"))
    sources += [source(f"{package}-help", package, mallard(gettext)) for package in GNOME]
    for package, (pattern, groups) in MESSAGES.items():
        if package == "wordpress-l10n":
            pattern = pattern.replace("{}", "{}_KR" if code != "zh" else "{}")
        sources.append(source(f"{package}-messages", package, messages(pattern, language, groups)))
    return [source for source in sources if code != "zh" or source.package not in NOT_IN_CHINESE]


def study(source: Source, domain: str, budget: int = ALL) -> StudySource:
    """A source of the sample corpus, in another domain and amount."""
    return StudySource(**{**vars(source), "domain": domain, "budget": budget})


SAMPLE = {source.name: source for source in base.SOURCES}
PROSE = [  # English that is no manual of a program, and a manual that has no translation
    study(SAMPLE["austen"], "english"),
    study(SAMPLE["jargon-file"], "english"),
    StudySource("anarchism", "english", "anarchism", 2_500_000, html("usr/share/doc/anarchism/html"), base.LATIN),
    StudySource(
        "postgresql", "english", "postgresql-doc-15", 2_500_000, html("usr/share/doc/postgresql-doc-15/html"), base.LATIN
    ),
]
GO = "archive bufio bytes compress container database encoding fmt go html image index io log mime net os path regexp"
CODE = [
    study(SAMPLE["rust-library"], "code", 2_100_000),
    StudySource(
        "python-library",
        "code",
        "libpython3.11-stdlib",
        1_400_000,
        base.indented("usr/lib/python3.11", "**/*.py", exclude=r"(^|/)(tests?|encodings|pydoc_data|_sysconfig\w+)[/.]"),
        work=first(r"[^/.]+"),  # a module or package
    ),
    StudySource(
        "go-library",
        "code",
        "golang-1.19-src",
        1_400_000,
        base.indented(
            "usr/share/go-1.19/src",
            *(f"{package}/**/*.go" for package in GO.split()),
            exclude=base.TABLES_AND_TESTS + "|testdata/",
        ),
        work=first(r".+(?=/)"),  # a package
    ),
    study(SAMPLE["stb"], "code", 600_000),
]


# --- Choosing documents ---------------------------------------------------------------------------------------------

BYTES, LONG = 5_300_000, 18_000_000  # of text in each file, and in the one for long runs


def cut(documents: list[StudyDocument], budget: int, preferred: set[str]) -> list[StudyDocument]:
    """Documents of at most `budget` bytes: those of the preferred topics, then others."""
    taken, spent = [], 0
    for document in sorted(documents, key=lambda document: (document.topic not in preferred, document.order())):
        if spent + size(document.text) <= budget:
            taken.append(document)
            spent += size(document.text)
    return taken


def topics(documents: list[StudyDocument]) -> set[str]:
    return {document.topic for document in documents}


def write(name: str, documents: list[StudyDocument], folder: Path) -> None:
    by_source = defaultdict(list)
    for document in documents:
        by_source[document.source].append(document)
    print(f"\n{name}.parquet\n\n| source | documents | topics | bytes |\n|---|---:|---:|---:|")
    for source, chosen in [*sorted(by_source.items()), ("all", documents)]:
        print(f"| {source} | {len(chosen)} | {len(topics(chosen))} | {sum(size(d.text) for d in chosen)} |", flush=True)
    base.write_parquet(documents, folder / f"{name}.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the corpora of the studies.")
    parser.add_argument("--output", type=Path, default=HERE / "corpora", help="the folder of the Parquet files")
    parser.add_argument("--debs", type=Path, help="keep the downloaded packages in this folder, and reuse them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        debs = arguments.debs or Path(folder, "debs")
        for path in (debs, arguments.output):
            path.mkdir(parents=True, exist_ok=True)
        roots: dict[str, Path] = {}

        def choose(sources: list[StudySource]) -> list[StudyDocument]:
            selection, seen = base.Selection(MIN_BYTES), set()
            for source in sources:
                package, source.seen = source.package, seen
                if package not in roots:
                    unpacked = Path(folder, "unpacked")
                    roots[package] = base.fetch_package(package, PACKAGES[package], debs.resolve(), unpacked)
                selection.take(source, roots[package])
            return selection.documents

        korean = choose(documentation("korean"))
        shared = topics(korean)
        write("korean", cut(korean, BYTES, shared), arguments.output)
        english = choose(documentation("english") + PROSE)
        prose = {source.name for source in PROSE}
        short = cut([document for document in english if document.source not in prose], BYTES, shared)
        write("english", short, arguments.output)
        write("english_18mb", cut(english, LONG, topics(short)), arguments.output)
        write("chinese", cut(choose(documentation("chinese")), BYTES, shared), arguments.output)
        write("code", cut(choose(CODE), BYTES, set()), arguments.output)


if __name__ == "__main__":
    try:
        main()
    except (BuildError, OSError, pyarrow.ArrowException) as error:
        sys.exit(f"build_corpora.py: {error}")
