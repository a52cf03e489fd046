"""A parser of command lines whose errors are exceptions."""

import argparse
from typing import NoReturn


class UsageError(ValueError):
    """A command line that cannot be read."""


class Parser(argparse.ArgumentParser):
    """As `argparse` has it, but what is wrong is a `UsageError`, told in one line by whoever reads the command."""

    def error(self, message: str) -> NoReturn:
        """Raises the error."""
        raise UsageError(f"{message}; see {self.prog} --help")
