"""What GitHub code scanning asks of a SARIF file, beyond the schema.

Written from https://docs.github.com/en/code-security/reference/code-scanning/sarif-files: what is
required, the limits, and the ranges of values.
"""

from __future__ import annotations

import gzip
import json
import re
from typing import Any
from urllib.parse import unquote, urlsplit

MAX_COMPRESSED = 10_000_000  # bytes
MAX_SHOWN_RESULTS = 5_000  # of 25,000 that are accepted
MAX_SHOWN_TAGS = 10  # of 20
MAX_DESCRIPTION = 1024  # characters
MAX_NAME = 255
REGION = ("startLine", "startColumn", "endLine", "endColumn")
PRECISIONS = ("very-high", "high", "medium", "low")
LEVELS = ("note", "warning", "error")


def check_accepted(text: str) -> dict[str, Any]:
    """The only run of a SARIF file that GitHub would take, with nothing left out of it."""
    log: dict[str, Any] = json.loads(text)
    assert len(gzip.compress(text.encode())) < MAX_COMPRESSED
    assert log["$schema"]
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    assert run["tool"]["driver"]["name"]
    rules = run["tool"]["driver"]["rules"]
    for rule in rules:
        _check_rule(rule)
    ids = [rule["id"] for rule in rules]
    assert len(set(ids)) == len(ids)
    assert len(run["results"]) <= MAX_SHOWN_RESULTS
    for result in run["results"]:
        _check_result(result, ids)
    known_by = [_identity(result) for result in run["results"]]
    assert len(set(known_by)) == len(known_by)
    category, _, run_id = run["automationDetails"]["id"].rpartition("/")
    assert category
    assert not run_id
    return dict(run)


def _check_rule(rule: dict[str, Any]) -> None:
    assert rule["id"]
    assert 0 < len(rule["name"]) <= MAX_NAME
    assert re.fullmatch(r"[A-Z][A-Za-z0-9]*", rule["name"])
    assert 0 < len(rule["shortDescription"]["text"]) <= MAX_DESCRIPTION
    assert 0 < len(rule["fullDescription"]["text"]) <= MAX_DESCRIPTION
    assert rule["help"]["text"]
    assert rule["help"]["markdown"]
    assert rule["defaultConfiguration"]["level"] in LEVELS
    properties = rule["properties"]
    assert properties["precision"] in PRECISIONS
    assert 0 < len(properties["tags"]) <= MAX_SHOWN_TAGS
    severity = properties.get("security-severity")
    assert (severity is not None) == ("security" in properties["tags"])
    if severity is None:
        assert properties["problem.severity"] in ("error", "warning", "recommendation")
    else:
        assert isinstance(severity, str)
        assert 0 < float(severity) <= 10


def _check_result(result: dict[str, Any], ids: list[str]) -> None:
    assert ids[result["ruleIndex"]] == result["ruleId"]
    assert result["level"] in LEVELS
    assert result["message"]["text"]
    assert "suppressions" not in result  # shown as open
    (location,) = result["locations"]
    place = location["physicalLocation"]
    region = [place["region"][name] for name in REGION]
    assert all(isinstance(each, int) and each >= 1 for each in region)
    start, end = (region[0], region[1]), (region[2], region[3])
    assert start < end
    uri = place["artifactLocation"]["uri"]
    split = urlsplit(uri)
    assert re.fullmatch(r"[A-Za-z0-9._~/%-]+", uri)
    assert not split.scheme
    assert not uri.startswith("/")
    assert ".." not in unquote(uri).split("/")
    assert result["partialFingerprints"]["primaryLocationLineHash"]


def _identity(result: dict[str, Any]) -> tuple[str, str, str]:
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]
    hash_ = result["partialFingerprints"]["primaryLocationLineHash"]
    return result["ruleId"], place["uri"], hash_
