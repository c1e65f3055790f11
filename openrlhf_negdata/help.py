"""How ``--help`` reads, of every command line."""

from __future__ import annotations

import argparse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the paragraphs of a module's docstring and adds the default to every flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # 0 is a default worth telling; -1 is where the help says what it stands for.
        without = action.default is None or action.default is False or action.default in ([], -1)
        return action.help if without else super()._get_help_string(action)
