"""A repository's own words, written by strangers: card to harmless HTML, settings and figures to rows."""

import json
from pathlib import Path
from typing import NamedTuple

import nh3
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from markdown_it import MarkdownIt

# Nothing that loads, moves or asks: pictures come from this server, next to the card.
TAGS = set(
    "a b blockquote br code del details em h1 h2 h3 h4 h5 h6 hr i kbd li ol p pre s strong sub summary sup "
    "table tbody td th thead tr ul".split()
)
MOST_ROWS = 100
DEEPEST = 50  # levels of metadata
OPENING = (
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
)
CLOSING = (yaml.BlockEndToken, yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)
MOST_TAGS = 500  # of raw HTML in a card
MOST_LETTERS = 300  # of one value


class Card(NamedTuple):
    """What a card says: its text as HTML, and its figures as rows of name, value and dataset."""

    html: str
    figures: list[list[str]]


def read_card(text: str, address: str | None = None) -> Card:
    """A model card from its Markdown, raw HTML allowed in it but reduced to what only formats text.

    Args:
        text: the Markdown, with its YAML block.
        address: of the folder the card is in, ending in a slash: where its relative links lead. Without one they are
            dropped.
    """
    try:
        _check_plain(text)
        card = ModelCard(text, ignore_metadata_errors=True)
        body, results = card.text, card.data.eval_results or []
    except (ValueError, TypeError, AttributeError, KeyError, yaml.YAMLError, RecursionError):
        body, results = REGEX_YAML_BLOCK.sub("", text, count=1), []
    # Tags that are never closed are opened again in every paragraph, so many of them are shown as they are written.
    raw = body.count("<") <= MOST_TAGS
    rendered = MarkdownIt("commonmark", {"html": raw}).enable("table").render(body)
    html = nh3.clean(
        rendered,
        tags=TAGS,
        attributes={"a": {"href"}},
        url_schemes={"http", "https"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
        url_relative=("rewrite_with_base", address) if address else "deny",
    )
    figures = [
        [_short(result.metric_name or result.metric_type), _short(result.metric_value), _short(result.dataset_name)]
        for result in results[:MOST_ROWS]
    ]
    return Card(html, figures)


def _check_plain(text: str) -> None:
    """Raise a ValueError where a card's metadata repeats parts of itself by name, or is nested deeply.

    A few lines of aliases can stand for more text than there is memory.
    """
    block, depth = REGEX_YAML_BLOCK.search(text), 0
    for token in yaml.scan(block[2]) if block else ():
        depth += isinstance(token, OPENING) - isinstance(token, CLOSING)
        if isinstance(token, yaml.AliasToken) or depth > DEEPEST:
            raise ValueError("not what a card says")


def read_settings(path: Path) -> list[list[str]]:
    """Rows of name and value from a JSON file of settings; none where it is not one."""
    try:
        values = json.loads(path.read_bytes())
        return [[_short(name), _short(value)] for name, value in list(values.items())[:MOST_ROWS]]
    except (ValueError, AttributeError, RecursionError, OSError):
        return []


def _short(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…"
