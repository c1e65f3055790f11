"""An arm of one's own: the shortest right answers of a problem."""

from dataclasses import dataclass

from openrlhf_negdata.datasets.rows import Arm, sft_row
from openrlhf_negdata.flags import flag


@dataclass
class Shortest(Arm):
    """Of each problem its ``count`` shortest right answers."""

    count: int = flag(1, "answers a problem", least=1)

    def rows(self, known, account):
        right = sorted(known.right(), key=lambda trace: len(trace.text))
        account.drop("not_right", len(known.traces) - len(right))
        account.keep(len(right[: self.count]))
        account.drop("longer", len(right[self.count :]))
        for trace in right[: self.count]:
            yield sft_row(known, trace, tokens=len(trace.token_ids or ()))


arm = Shortest
