"""What a progress bar says of the time that is left."""

import io
import re

from openrlhf_negdata.cli.progress import Progress


def test_the_time_left_is_by_the_rate_of_the_whole_run_and_not_told_before_a_wave_is_done(monkeypatch):
    """Jobs of 2 answers come in bursts of four at 10 s, 20 s and so on: of 40 answers, 8 every 10 s. What was there
    before, 16 more, was not made in that time."""
    now = [0.0]
    bar = Progress(4, total=56, initial=16, unit="answer", file=io.StringIO(), mininterval=0)
    bar._time, bar.start_t = (lambda: now[0]), 0.0
    told = []
    for burst in (10.0, 20.0, 30.0):
        now[0] = burst
        for _ in range(4):
            bar.update(2)
            told.append(re.search(r"<(\S+),", str(bar))[1])
    assert told[:3] == ["?"] * 3  # the first of what is under way would say 3 minutes
    assert [told[3], told[7], told[11]] == ["00:40", "00:30", "00:20"]
    bar.close()
