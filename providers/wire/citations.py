"""Citations: annotations (OpenAI, OpenRouter, Interactions), and the sources of the others."""

from __future__ import annotations

from typing import Any

from ringcast.providers.wire.numbers import whole
from ringcast.providers.wire.portable import portable, string
from ringcast.shm.tokens import Citation


def openai_citation(annotation: dict[str, Any], index: int) -> Citation:
    """From `{"type": "url_citation", "url_citation": {url, title, start_index, end_index}}`.

    Responses sends the inner object alone; a file's citation there has its `filename` for a title.
    """
    inner = annotation.get("url_citation")
    about = inner if isinstance(inner, dict) else annotation
    return Citation(
        url=string(about.get("url")),
        title=string(about.get("title")) or string(about.get("filename")),
        text=string(about.get("content")),
        start=whole(about.get("start_index")),
        end=whole(about.get("end_index")),
        index=index,
        raw=portable(annotation),
    )


def anthropic_citation(citation: dict[str, Any]) -> Citation:
    """From a citation of any location type; offsets are characters, pages or blocks.

    https://docs.anthropic.com/en/docs/build-with-claude/citations
    """
    starts = ("start_char_index", "start_page_number", "start_block_index")
    ends = ("end_char_index", "end_page_number", "end_block_index")
    return Citation(
        url=string(citation.get("url")) or string(citation.get("source")),
        title=string(citation.get("title")) or string(citation.get("document_title")),
        text=string(citation.get("cited_text")),
        start=next((n for key in starts if (n := whole(citation.get(key))) is not None), None),
        end=next((n for key in ends if (n := whole(citation.get(key))) is not None), None),
        raw=portable(citation),
    )


def bedrock_citation(citation: dict[str, Any]) -> Citation:
    """From `delta.citation`; offsets are characters, pages or chunks, as `location` is called.

    https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_CitationsDelta.html
    """
    places = citation.get("location")
    values = places.values() if isinstance(places, dict) else ()
    place: dict[str, Any] = next((value for value in values if isinstance(value, dict)), {})
    texts = (part.get("text") for part in _objects(citation.get("sourceContent")))
    return Citation(
        url=string(place.get("url")) or string(citation.get("source")),
        title=string(citation.get("title")),
        text=string("".join(text for text in texts if isinstance(text, str))),
        start=whole(place.get("start")),
        end=whole(place.get("end")),
        raw=portable(citation),
    )


def cohere_citation(citation: dict[str, Any]) -> Citation:
    """From a chat's `citations`; offsets are characters, the sources are named in `raw`.

    https://docs.cohere.com/v1/docs/documents-and-citations
    """
    return Citation(
        text=string(citation.get("text")),
        start=whole(citation.get("start")),
        end=whole(citation.get("end")),
        raw=portable(citation),
    )


def gemini_citation(source: dict[str, Any], index: int) -> Citation:
    """From one of `citationMetadata.citationSources`; offsets are bytes of UTF-8.

    https://ai.google.dev/api/generate-content#CitationMetadata
    """
    return Citation(
        url=string(source.get("uri")),
        title=string(source.get("title")),
        start=whole(source.get("startIndex")),
        end=whole(source.get("endIndex")),
        index=index,
        raw=portable(source),
    )


def grounding_citations(metadata: dict[str, Any], index: int) -> list[Citation]:
    """One for each of the `groundingChunks` in `groundingMetadata`, as `raw` with all it supports.

    Text and offsets, in bytes of UTF-8, are those of the first segment that it supports.
    https://ai.google.dev/api/generate-content#GroundingMetadata
    """
    sources = _objects(metadata.get("groundingChunks"))
    supported: dict[Any, list[dict[str, Any]]] = {}
    for support in _objects(metadata.get("groundingSupports")):
        indices = support.get("groundingChunkIndices")
        for number in indices if isinstance(indices, list) else ():
            supported.setdefault(whole(number), []).append(support)
    return [_grounding(s, supported.get(number, []), index) for number, s in enumerate(sources)]


def _grounding(source: dict[str, Any], supports: list[dict[str, Any]], index: int) -> Citation:
    """`source` holds one object, called web, maps, retrievedContext or image."""
    about = next((value for value in source.values() if isinstance(value, dict)), {})
    segment = supports[0].get("segment") if supports else None
    first = segment if isinstance(segment, dict) else {}
    end = whole(first.get("endIndex"))
    return Citation(
        url=string(about.get("uri")),
        title=string(about.get("title")),
        text=string(first.get("text")) or string(about.get("text")),
        start=whole(first.get("startIndex")) or (None if end is None else 0),
        end=end,
        index=index,
        raw=source | {"groundingSupports": supports} if supports else source,
    )


def interactions_citation(annotation: dict[str, Any]) -> Citation:
    """From a url, file or place citation of an interaction; offsets are bytes of UTF-8.

    https://ai.google.dev/api/interactions-api#Resource:Annotation
    """
    urls = (annotation.get(key) for key in ("url", "document_uri", "source"))
    names = (annotation.get(key) for key in ("title", "file_name", "name"))
    return Citation(
        url=next(filter(None, map(string, urls)), None),
        title=next(filter(None, map(string, names)), None),
        start=whole(annotation.get("start_index")),
        end=whole(annotation.get("end_index")),
        raw=portable(annotation),
    )


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
