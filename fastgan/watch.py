"""Reads a run's log, and says in words when training goes wrong."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LATE = 3  # evaluations in a row that must be worse than the best before that counts
SURE = 2  # evaluations in a row that must agree on the rest
COPIES = 0.2  # share of drawn pictures suspiciously close to a training picture, where 0.05 is usual
CLOSE = 0.5  # how far they are from training pictures, where 1 is usual
NEAR = 0.85  # the same, of a generator that begins to learn its set by heart,
MUCH = 0.5  # if it has such a recall: the few typical pictures of a young one are near to many, too


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl in order; one that a kill cut off, or that is none of ours, is left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    log = []
    for line in lines:
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(values, dict) and isinstance(values.get("images"), int):
            log.append(values)
    return log


def evaluations(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The lines that hold a KID, each with the mean `d_overfitting` since the one before, where there is one."""
    found, overfitting = [], []
    for line in log:
        if "d_overfitting" in line:
            overfitting.append(line["d_overfitting"])
        if "kid" in line:
            mean = {"d_overfitting": sum(overfitting) / len(overfitting)} if overfitting else {}
            found.append({**line, **mean})
            overfitting = []
    return found


def copying(figures: Mapping[str, Any]) -> int:
    """2 where an evaluation found copies of training pictures, which have the best KID; 1 on the way there; or 0."""
    distance = figures.get("distance_ratio", 1)
    if figures.get("near_share", 0) > COPIES or distance < CLOSE:
        return 2
    return int(distance < NEAR and figures.get("recall", 0) > MUCH)


def rank(figures: Mapping[str, Any]) -> tuple[int, float]:
    """Sort key of an evaluation, lowest best: the farther from copies the better, then by KID."""
    return copying(figures), figures["kid"]


def best_of(measured: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The best evaluation, the earliest of equals, among those that compare with the last one."""
    return min(_comparable(measured), key=rank, default=None)


def _comparable(measured: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The evaluations at the last size, against the last pictures: what compares."""
    return [line for line in measured if all(line.get(key) == measured[-1].get(key) for key in ("level", "pictures"))]


def remarks(log: Sequence[Mapping[str, Any]], kept: bool = True) -> dict[str, str]:
    """What is wrong with a run as it stands, by kind: a sentence each, with figures and what helps.

    Kinds:
        overfitting: KID has been above its best, by more than its error, for the last three evaluations.
        recall: it has fallen to less than half of what it was, twice in a row: modes are lost.
        collapse: drawn pictures are less than half as far from each other as they were.
        near: drawn pictures of all kinds are closer to training pictures than these to each other, twice in a row.
        copies: much closer.
        discriminator: it takes over 95 % of training patches for real (arXiv:2006.06676) while KID no longer falls.

    Args:
        log: as from :func:`read_log`.
        kept: whether the best so far is in best/; a run that has yet to grow keeps none.
    """
    measured = _comparable(evaluations(log))
    best = best_of(measured)
    if best is None:
        return {}
    found = {}
    last = measured[-1]
    at = f"{best['images'] / 1000:.1f} kimg" + (", kept in best/" if kept else "")
    since = measured[-LATE:]
    late = len(measured) > LATE and all(
        line["kid"] > 1.1 * max(best["kid"], 0) + 2 * line.get("kid_std", 0) for line in since
    )
    if late and best["images"] < since[0]["images"]:
        found["overfitting"] = (
            f"Training has begun to overfit: KID rose from {best['kid']:.4f} to {last['kid']:.4f}. The best is at {at}"
        )
    sure = measured[-SURE:]
    if len(measured) > SURE and all("recall" in line and "diversity" in line for line in measured):
        peak = max(measured, key=lambda line: line["recall"])
        if peak["recall"] >= 0.1 and all(line["recall"] < peak["recall"] / 2 for line in sure):
            found["recall"] = (
                f"Recall fell from {peak['recall']:.2f} at {peak['images'] / 1000:.1f} kimg to {last['recall']:.2f}: "
                f"whole kinds of pictures are no longer drawn. The best KID is at {at}"
            )
        widest = max(line["diversity"] for line in measured)
        if widest >= 0.5 and all(line["diversity"] < widest / 2 for line in sure):
            found["collapse"] = (
                f"The pictures become alike: the generator collapses (diversity {last['diversity']:.2f}, it was "
                f"{widest:.2f}). The best is at {at}; more --augment or a lower --learning-rate help"
            )
    if len(measured) >= SURE and all(copying(line) for line in sure):
        copies = all(copying(line) > 1 for line in sure)
        found["copies" if copies else "near"] = (
            f"The generator {'copies' if copies else 'begins to learn its pictures by heart'}: what it draws is "
            f"{last['distance_ratio']:.2f} times as far from training pictures as those are from each other (1 is "
            f"usual), and {100 * last['near_share']:.0f} % are very close to one (5 % is usual). More pictures help, "
            f"or a shorter run. The best is at {at}"
        )
    knows = all(line.get("d_overfitting", 0) > 0.9 for line in sure)
    lowest = min(measured, key=lambda line: line["kid"])  # of copies too
    if len(measured) > SURE and knows and lowest["images"] < sure[0]["images"]:
        found["discriminator"] = (
            f"The discriminator overfits: it takes {50 * (1 + last['d_overfitting']):.0f} % of the training pictures' "
            "patches for real, and KID no longer falls. More pictures or more --augment help"
        )
    return found
