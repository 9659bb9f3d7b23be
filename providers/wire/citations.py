"""Citations: OpenAI's and OpenRouter's annotations, and Anthropic's citations."""

from __future__ import annotations

from typing import Any

from ringcast.providers.wire.numbers import whole
from ringcast.shm.tokens import Citation


def openai_citation(annotation: dict[str, Any], index: int) -> Citation:
    """From `{"type": "url_citation", "url_citation": {url, title, start_index, end_index}}`."""
    inner = annotation.get("url_citation")
    about = inner if isinstance(inner, dict) else annotation
    return Citation(
        url=_string(about.get("url")),
        title=_string(about.get("title")),
        text=_string(about.get("content")),
        start=whole(about.get("start_index")),
        end=whole(about.get("end_index")),
        index=index,
        raw=annotation,
    )


def anthropic_citation(citation: dict[str, Any]) -> Citation:
    """From a citation of any location type; offsets are characters, pages or blocks.

    https://docs.anthropic.com/en/docs/build-with-claude/citations
    """
    starts = ("start_char_index", "start_page_number", "start_block_index")
    ends = ("end_char_index", "end_page_number", "end_block_index")
    return Citation(
        url=_string(citation.get("url")) or _string(citation.get("source")),
        title=_string(citation.get("title")) or _string(citation.get("document_title")),
        text=_string(citation.get("cited_text")),
        start=next((n for key in starts if (n := whole(citation.get(key))) is not None), None),
        end=next((n for key in ends if (n := whole(citation.get(key))) is not None), None),
        raw=citation,
    )


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None
