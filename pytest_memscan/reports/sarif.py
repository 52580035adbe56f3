"""The report as SARIF 2.1.0, which GitHub code scanning shows as alerts.

A finding in a checkpoint has no line of code. Each result points to the line of the policy that
it breaks, and is known again by a fingerprint of rule, check and finding alone: no score, sentence
or line number, all of which move from run to run. The text is a function of the result: no time,
no machine, no folder.

For each check and metric there are at most ``MAX_FINDINGS + 1`` results. Ten metrics have findings
at all, so even a policy that names every metric stays below the 5,000 results that GitHub shows,
and far below the 25,000 and the 10 MB (compressed) that it accepts. Findings that were waived are
left out: GitHub shows suppressed results as open alerts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from pytest_memscan.reports.sarif_alerts import Alert, alerts_of
from pytest_memscan.reports.sarif_rules import rule_name, rule_of
from pytest_memscan.reports.text import escape
from pytest_memscan.results import Location, RunResult, Verdict

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
DEFAULT_LOCATION = Location(file="memscan.toml")  # of what no line of a policy file set
FINGERPRINT_DIGITS = 32  # of 64; enough that no two results of a repository share one
MAX_MESSAGE = 1000  # characters
_COMMIT = re.compile(r"@[0-9a-f]{7,40}$")
# https://semver.org, without what it asks of the parts of a pre-release.
_SEMANTIC_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(?:[-+][0-9A-Za-z.+-]+)?")
_DRIVE_OR_BACKSLASH = re.compile(r"\w+:|.*\\")


def to_sarif(result: RunResult) -> str:
    """The SARIF report, two spaces deep, with a newline at its end.

    Only a run that passed has no results.
    """
    alerts = alerts_of(result)
    rules = list(dict.fromkeys(each.rule for each in alerts))
    run: dict[str, Any] = {
        "tool": {"driver": {**_driver(result), "rules": [_rule(each) for each in rules]}},
        "automationDetails": {"id": f"memscan/{_category(result.checkpoint)}/"},
        "invocations": [_invocation(result)],
        "columnKind": "unicodeCodePoints",
        "results": [_result(each, rules) for each in alerts],
        "properties": {
            "verdict": result.verdict.value,
            "sentence": _plain(result.sentence),
            "checkpoint": _plain(result.checkpoint),
        },
    }
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2) + "\n"


def fingerprint(rule: str, check: str, subject: str) -> str:
    """What a result is known by from run to run, 32 hexadecimal digits.

    The beginning of the SHA-256 of the three, each followed by a newline.

    Args:
        rule: Id of the rule.
        check: That found it.
        subject: Id of the finding, or the metric where there is none.
    """
    lines = "".join(f"{each}\n" for each in (rule, check, subject))
    return hashlib.sha256(lines.encode()).hexdigest()[:FINGERPRINT_DIGITS]


def _driver(result: RunResult) -> dict[str, str]:
    version = escape(result.versions.get("pytest-memscan", ""))
    key = "semanticVersion" if _SEMANTIC_VERSION.fullmatch(version) else "version"
    return {"name": "pytest-memscan", **({key: version} if version else {})}


def _rule(rule_id: str) -> dict[str, Any]:
    rule = rule_of(rule_id)
    properties: dict[str, Any] = {"precision": rule.precision, "tags": list(rule.tags)}
    if rule.severity:
        properties["security-severity"] = rule.severity
    else:
        properties["problem.severity"] = rule.level
    return {
        "id": rule_id,
        "name": rule_name(rule_id),
        "shortDescription": {"text": f"{rule.title}."},
        "fullDescription": {"text": rule.meaning},
        "help": {
            "text": f"{rule.meaning}\n\n{rule.remedy}",
            "markdown": f"**What it means.** {rule.meaning}\n\n**What to do.** {rule.remedy}",
        },
        "defaultConfiguration": {"level": rule.level},
        "properties": properties,
    }


def _invocation(result: RunResult) -> dict[str, Any]:
    # Whether a gate that was deselected is red is decided outside of the result.
    is_decided = result.verdict is not Verdict.NOT_RUN
    return {
        "executionSuccessful": result.verdict not in (Verdict.ERROR, Verdict.NOT_RUN),
        **({"exitCode": int(result.verdict is not Verdict.PASS)} if is_decided else {}),
        "exitCodeDescription": f"the verdict of memscan is {result.verdict}",
    }


def _result(alert: Alert, rules: Sequence[str]) -> dict[str, Any]:
    known_by = fingerprint(*alert.identity)
    return {
        "ruleId": alert.rule,
        "ruleIndex": rules.index(alert.rule),
        "level": rule_of(alert.rule).level,
        "message": {"text": f"{_plain(alert.message).removesuffix('.') or alert.rule}."},
        "locations": [{"physicalLocation": _place(alert.location)}],
        # GitHub looks at the second only, and takes it for the hash of a line.
        "partialFingerprints": {"memscan/v1": known_by, "primaryLocationLineHash": known_by},
        "properties": {"check": alert.check, "subject": alert.subject},
    }


def _place(location: Location | None) -> dict[str, Any]:
    place = location if location and _is_inside(location.file) else DEFAULT_LOCATION
    line, column = max(place.line, 1), max(place.column, 1)
    # Not `escape`: a name must lead to its file, and nothing in a URI steers anything.
    uri = quote(str(PurePosixPath(place.file)), errors="backslashreplace")
    return {
        "artifactLocation": {"uri": uri, "uriBaseId": "%SRCROOT%"},
        "region": {
            "startLine": line,
            "startColumn": column,
            "endLine": line,
            "endColumn": max(place.end_column, column + 1),
        },
    }


def _is_inside(file: str) -> bool:
    """Whether a file can be in the repository; GitHub shows no other, and its path is private."""
    path = PurePosixPath(file)
    is_outside = path.is_absolute() or ".." in path.parts or _DRIVE_OR_BACKSLASH.match(file)
    return bool(path.parts) and not is_outside


def _category(checkpoint: str) -> str:
    """The same for every commit: GitHub closes an alert when its category no longer has it."""
    return quote(_COMMIT.sub("", escape(checkpoint)), safe="/@:").strip("/") or "checkpoint"


def _plain(text: str) -> str:
    """One harmless line: no line break, link ``[text](target)`` or placeholder ``{0}``."""
    if len(text) > 2 * MAX_MESSAGE:  # `escape` looks at every character, and keeps both ends
        text = text[:MAX_MESSAGE] + text[-MAX_MESSAGE:]
    line = escape(" ".join(each.strip() for each in text.splitlines()), limit=MAX_MESSAGE)
    return line.strip().replace("](", "] (").replace("{", "(").replace("}", ")")
