"""How ``--help`` reads, of every command line."""

from __future__ import annotations

import argparse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the paragraphs of a module's docstring and adds the default to every flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        without = action.default is None or action.default is False  # 0 is a default worth telling
        return action.help if without else super()._get_help_string(action)
