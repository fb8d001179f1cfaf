# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares image_reference with github.com/distribution/reference on thousands of generated image references."""

from __future__ import annotations

import collections
import json
import pathlib
import random
import re
import string
import subprocess

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import reference as image_reference

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
NUMBER = 20_000
SEED = 20260601
HEX = "0123456789abcdef"
# Characters with a meaning in the grammar, and unknown ones.
ALPHABET = "aZ09._-:/@[] \n\té\u212a"
HOSTS = ["docker.io", "index.docker.io", "gcr.io", "localhost", "localhost:5000", "Cache", "cache", "127.0.0.1:80", "[::1]:5000"]
PIECES = ["library", "ubuntu", "foo..bar", "a.-b", "a--b", "a__b", "a___b", "a_b.c", "-a", "a-", "i", "0", "A", *HOSTS]
LENGTHS = [0, 1, 31, 32, 63, 64, 65, 95, 96, 97, 127, 128, 129]
ALGORITHMS = ["sha256", "sha384", "sha512", "sha1", "md5", "SHA256", "sha256+b64", "blake2b"]


def a_reference(rng: random.Random) -> str:
    """Returns a reference of likely and unlikely parts, most of which are valid."""

    def word(limit: int) -> str:
        return "".join(rng.choice(string.ascii_lowercase + string.digits) for _ in range(rng.randint(1, limit)))

    def host() -> str:
        if rng.random() < 0.7:
            return rng.choice(HOSTS)
        return ".".join(word(5) for _ in range(rng.randint(1, 4))) + rng.choice(["", "", f":{rng.randint(0, 70000)}"])

    def component() -> str:
        if rng.random() < 0.2:
            return rng.choice(PIECES)
        return rng.choice([".", "_", "__", "-", "---"]).join(word(6) for _ in range(rng.randint(1, 3)))

    def digest() -> str:
        algorithm = rng.choice(ALGORITHMS[:3] if rng.random() < 0.7 else ALGORITHMS)
        right = {"sha256": 64, "sha384": 96, "sha512": 128}.get(algorithm, 64)
        length = right if rng.random() < 0.8 else rng.choice(LENGTHS)
        return f"{algorithm}:" + "".join(rng.choice(HEX) for _ in range(length))

    kind = rng.random()
    if kind < 0.06:
        text = "".join(rng.choice(HEX) for _ in range(rng.choice([63, 64, 65])))
    elif kind < 0.12:
        # Repositories near the maximum length. Those of docker.io get the prefix library/.
        text = "/".join("a" * rng.choice([7, 63]) for _ in range(rng.randint(1, 4)))
        text += "b" * (rng.randint(245, 258) - len(text))
    else:
        text = "/".join(component() for _ in range(rng.randint(1, 4)))
    if rng.random() < 0.6:
        text = f"{host()}/{text}"
    if rng.random() < 0.4:
        text += ":" + (rng.choice("_-.") if rng.random() < 0.1 else "") + "t" * (1 if rng.random() < 0.8 else rng.choice(LENGTHS))
    if rng.random() < 0.3:
        text += f"@{digest()}"
    return text


def a_mutation(rng: random.Random, text: str) -> str:
    """Returns the text with one to three small changes."""
    for _ in range(rng.randint(1, 3)):
        place = rng.randint(0, len(text))
        change = rng.randrange(5)
        if change == 0:
            text = text[:place] + rng.choice(ALPHABET) + text[place:]
        elif change == 1:
            text = text[:place] + text[place + 1 :]
        elif change == 2:
            text = text[:place] + rng.choice(ALPHABET) + text[place + 1 :]
        elif change == 3:
            text = text[:place] + text[place : place + 3].swapcase() + text[place + 3 :]
        else:
            other = rng.randint(0, len(text))
            text = text[: max(place, other)] + text[min(place, other) :]
    return text


@pytest.fixture(scope="module")
def references() -> list[str]:
    """Returns generated references, the same in every run, and those that were once parsed differently."""
    rng = random.Random(SEED)
    valid = [a_reference(rng) for _ in range(NUMBER // 2)]
    known = ["index.docker.io/ubuntu", "index.docker.io/a/b", "foo..bar/x", "a.-b/x", "a_b.c/x", "", "/"]
    known += ["a" * 64, f"{'a' * 64}:1", f"sha256:{'a' * 64}"]
    known += [f"gcr.io/{'a' * length}" for length in (255, 256)] + ["a" * length for length in (247, 248)]
    known += [f"ubuntu@sha{bits}:{'0a' * (bits // 8)}" for bits in (256, 384, 512)]
    return known + valid + [a_mutation(rng, text) for text in valid]


@pytest.fixture(scope="module")
def answers(references: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Returns the library's result for each reference."""
    program = tmp_path_factory.mktemp("go") / "reference"
    subprocess.run(["go", "build", "-o", str(program), "."], cwd=HERE, check=True)
    lines = "".join(json.dumps(text) + "\n" for text in references)
    output = subprocess.run([program], input=lines, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def accepted(answer: dict[str, str]) -> bool:
    """Returns whether the parser must accept it, too. image_reference documents why it refuses names without a registry."""
    return not answer["error"] and bool(answer["registry"])


def test_parts_and_errors_match(references: list[str], answers: list[dict[str, str]]) -> None:
    assert len(answers) == len(references)
    wrong = []
    for text, answer in zip(references, answers):
        wanted = {key: value or None for key, value in answer.items() if key != "error"} if accepted(answer) else None
        try:
            found = image_reference.parse(text)._asdict()
        except ValueError:
            found = None
        if found != wanted:
            wrong.append((text, found, answer))
    assert wrong == []


def test_all_kinds_of_references_are_covered(answers: list[dict[str, str]]) -> None:
    """Checks that the comparison covers all kinds of references and errors."""
    kinds = collections.Counter(re.sub(r"\([^)]*\)", "", answer["error"]) or "valid" for answer in answers)
    assert kinds["valid"] > NUMBER / 4 and len(answers) - kinds["valid"] > NUMBER / 4
    reasons = "more than 255", "64-byte hexadecimal", "must be lowercase", "digest length", "digest algorithm", "invalid reference format"
    for part in reasons:
        assert sum(number for kind, number in kinds.items() if part in kind) >= 20, kinds
    assert {answer["digest"].partition(":")[0] for answer in answers} == {"", "sha256", "sha384", "sha512"}


def test_library_version_matches_the_cache() -> None:
    pins = [re.search(r"distribution/reference (v\S+)", (folder / "go.mod").read_text()) for folder in (HERE, ROOT / "docker" / "registry")]
    assert all(pins) and len({pin[1] for pin in pins if pin}) == 1
