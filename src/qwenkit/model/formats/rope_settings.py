"""How a `config.json` spells the rotation: `rope_theta` and `rope_scaling`, or `rope_parameters`, which holds both.

Checkpoints on the Hub have the older spelling, newer libraries write the newer one, and a folder may have both: its
owner switched YaRN on by hand. transformers then takes `rope_scaling` in the place of `rope_parameters`. It is taken
here too where the newer one says nothing else; otherwise both are named and refused, and so are two bases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenkit.errors import UserError, listed, notice
from qwenkit.model.formats.base import agree

OLDER, NEWER = "rope_scaling", "rope_parameters"
ORIGINAL = "original_max_position_embeddings"
ROPE_KEYS = frozenset({OLDER, NEWER, ORIGINAL, "rope_theta", "rotary_emb_base"})
_ENTRIES = ("rope_type", "type", "rope_theta", "factor", ORIGINAL, "beta_fast", "beta_slow", "attention_factor",
            "truncate", "mscale", "mscale_all_dim", "partial_rotary_factor")  # fmt: skip
_HARMLESS = {"factor": 1.0, "partial_rotary_factor": 1.0}


def rotation(config_json: Mapping[str, Any]) -> tuple[Mapping[str, Any], Any]:
    """Return the settings of the rotation, always with `rope_type`, and its base or None."""
    older, newer = _entries(config_json, OLDER), _entries(config_json, NEWER)
    if older and newer:
        _refuse_both(older, newer)
    rope = older or newer or {"rope_type": "default"}
    bases = {f"{name}.rope_theta": rope.get("rope_theta") for name, rope in ((OLDER, older), (NEWER, newer))}
    bases |= {name: config_json.get(name) for name in ("rope_theta", "rotary_emb_base")}
    theta = agree(bases, bases, "the base of the rotation")
    if older and newer and theta is not None and _only_newer(bases) and theta != 10000:
        raise UserError(f"{OLDER} stands in the place of {NEWER}, and the base {theta} stands in that one only",
                        expected=f'"rope_theta": {theta} in {OLDER} too')  # fmt: skip
    if rope["rope_type"] == "yarn":
        lengths = {f"{OLDER if older else NEWER}.{ORIGINAL}": rope.get(ORIGINAL), ORIGINAL: config_json.get(ORIGINAL)}
        rope = {**rope, ORIGINAL: agree(lengths, lengths, "the length before YaRN")}
    return rope, theta


def _only_newer(bases: Mapping[str, Any]) -> bool:
    return [name for name, value in bases.items() if value is not None] == [f"{NEWER}.rope_theta"]


def _entries(config_json: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return one of the two objects, with `rope_type` as its kind; raises a `UserError` for unknown entries."""
    rope = config_json.get(name) or {}
    if not isinstance(rope, Mapping):
        raise UserError(f"{name} = {rope!r:.80}", expected='an object such as {"rope_type": "yarn", "factor": 4.0}')
    settings = {key: value for key, value in rope.items() if value is not None}
    if not settings:
        return {}
    kind = agree({f"{name}.{key}": settings.get(key) for key in ("rope_type", "type")},
                 (f"{name}.rope_type", f"{name}.type"), "the kind of the rotation") or "default"  # fmt: skip
    if kind not in ("default", "yarn"):
        raise UserError(f"not supported here: rope type {kind!r:.80}", expected="default or yarn")
    odd = [key for key in settings if key not in _ENTRIES]
    if kind == "default":
        odd += [
            key for key in _ENTRIES[3:] if key in settings and key != ORIGINAL and settings[key] != _HARMLESS.get(key)
        ]
    elif settings.get("partial_rotary_factor", 1.0) != 1.0:
        odd.append("partial_rotary_factor")
    if odd:
        raise UserError(f"not supported here: {listed(odd)} in {name} of the rope type {kind!r}",
                        expected="rope_theta, or YaRN's settings with the type yarn")  # fmt: skip
    return {**{key: value for key, value in settings.items() if key != "type"}, "rope_type": kind}


def _refuse_both(older: Mapping[str, Any], newer: Mapping[str, Any]) -> None:
    """Raise a `UserError` for two objects, unless the newer one says no more than the older."""
    plain = {key: value for key, value in newer.items() if key not in (*_HARMLESS, ORIGINAL, "rope_theta")}
    rest = {key: value for key, value in older.items() if key != "rope_theta"}
    if {key: value for key, value in newer.items() if key != "rope_theta"} == rest:
        return
    if plain != {"rope_type": "default"}:
        raise UserError(f"{OLDER} and {NEWER} disagree", expected="one of them, or the same in both",
                        hint=f"take {NEWER} out: it is what a newer library wrote")  # fmt: skip
    notice(f"{OLDER} is taken in the place of {NEWER}, as transformers does")
