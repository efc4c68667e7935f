"""A small XML tree from untrusted bytes: no entities, nothing loaded, bounded size and depth."""

from __future__ import annotations

from typing import Any, NoReturn
from xml.parsers import expat

from msgspec import Struct

from mlsched.errors import SpecError

SIZE_BYTES_MAX = 16 << 20
"""A machine with 8 GPUs needs 0.4 MiB."""

DEPTH_MAX = 32


class Element(Struct):
    """One element: its text without white space around it, and its children."""

    tag: str
    text: str = ""
    children: list[Element] = []

    def child(self, tag: str) -> Element | None:
        """The first child of that name."""
        return next((one for one in self.children if one.tag == tag), None)

    def find(self, path: str) -> Element | None:
        """The first element at a path of names parted by ``/``."""
        found: Element | None = self
        for name in path.split("/"):
            found = found.child(name) if found is not None else None
        return found


def parse_tree(data: bytes) -> Element:
    """The root element of a document.

    A DOCTYPE line is tolerated, because ``nvidia-smi`` writes one; what it names is not loaded.

    Raises:
        SpecError: not well-formed, too large, too deep, or with declarations of entities.
    """
    if len(data) > SIZE_BYTES_MAX:
        raise SpecError(f"the document has {len(data)} bytes, at most {SIZE_BYTES_MAX} are read.")
    builder = _Builder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = _refuse
    parser.ExternalEntityRefHandler = _refuse
    parser.SkippedEntityHandler = _refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise SpecError(f"the document is not well-formed XML: {error}.") from error
    return builder.root


def _refuse(*_: Any) -> NoReturn:
    raise SpecError(
        "the document declares or uses XML entities, which no output of nvidia-smi does.",
        "Attach the unchanged output of: nvidia-smi -q -x",
    )


class _Builder:
    """Turns the parser's calls into elements."""

    def __init__(self) -> None:
        self._top = Element("", children=[])
        self._open = [self._top]

    @property
    def root(self) -> Element:
        """The document's element; a well-formed document has just one."""
        return self._top.children[0]

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """A start tag; attributes say nothing that the elements do not."""
        if len(self._open) > DEPTH_MAX:
            raise SpecError(f"the document is nested deeper than {DEPTH_MAX} elements.")
        element = Element(tag, children=[])
        self._open[-1].children.append(element)
        self._open.append(element)

    def end(self, tag: str) -> None:
        """An end tag."""
        element = self._open.pop()
        element.text = element.text.strip()

    def data(self, text: str) -> None:
        """A piece of text."""
        self._open[-1].text += text
