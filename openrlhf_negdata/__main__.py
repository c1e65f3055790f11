"""``python -m openrlhf_negdata`` is ``negdata``."""

from openrlhf_negdata.cli.main import command

if __name__ == "__main__":
    command()
