"""Prompt suites. Figures from different suites are never comparable, so every suite carries a hash of its content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt. category: `code` or `prose` in the `quick` suite."""

    id: str
    category: str
    text: str


@dataclass(frozen=True, slots=True)
class Suite:
    """Prompts that are measured together.

    shape: how a prompt reaches the model; `completion` is the raw text, without a chat template.
    n_predict: tokens asked for per prompt, unless a run says otherwise.
    """

    name: str
    shape: str
    n_predict: int
    prompts: tuple[Prompt, ...]

    @property
    def hash(self) -> str:
        """SHA-256, hex, of the shape and the prompts in their order: what the model sees, not what it is called."""
        content = [self.shape, [[prompt.id, prompt.category, prompt.text] for prompt in self.prompts]]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


_BINARY_SEARCH = '''\
def binary_search(items, target):
    """Return the index of target in the sorted list items, or -1 if it is not there."""
    low = 0
    high = len(items) - 1
    while'''

_CONFIG_CLASS = '''\
import os
import re


class ConfigFile:
    """Read and write a simple configuration file.

    Each line has the form "key = value". Empty lines and lines that start with "#" are ignored.
    """

    def __init__(self, filename, encoding="utf-8"):
        self.filename = filename
        self.encoding = encoding
        self.values = {}

    def read(self):
'''

_TEST_CASE = """\
import unittest


class QueueTest(unittest.TestCase):

    def test_empty(self):
        queue = Queue()
        self.assertEqual(len(queue), 0)
        self.assertRaises(IndexError, queue.pop)

    def test_push(self):
        queue = Queue()
        queue.push(1)
"""

_PARSER = '''\
def parse_args(argv=None):
    """Parse the command line and return the options."""
    parser = argparse.ArgumentParser(description="Copy files from one folder to another.")
    parser.add_argument("source", help="the folder to copy from")
    parser.add_argument("target", help="the folder to copy to")
    parser.add_argument('''

_CACHE_PROSE = """\
A cache keeps the results of slow operations, so that asking for the same result again is fast. \
The first time a value is requested, the cache does not hold it, and"""

_MODULE_PROSE = '''\
"""This module provides functions for working with dates and times.

The main class is Calendar. It represents'''

QUICK = Suite(
    name="quick",
    shape="completion",
    n_predict=128,
    prompts=(
        Prompt("binary-search", "code", _BINARY_SEARCH),
        Prompt("config-class", "code", _CONFIG_CLASS),
        Prompt("cache", "prose", _CACHE_PROSE),
        Prompt("test-case", "code", _TEST_CASE),
        Prompt("parser", "code", _PARSER),
        Prompt("module-doc", "prose", _MODULE_PROSE),
    ),
)

SUITES = {suite.name: suite for suite in (QUICK,)}
