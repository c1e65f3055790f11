"""The method for one's own Python: what docs/python.md shows. It needs no torch, vLLM or OpenRLHF."""

from openrlhf_negdata.datasets.memory import answered, build_rows
from openrlhf_negdata.datasets.rows import Account, Answered, Arm, Valuing
from openrlhf_negdata.grading import Grader, grade_rows
from openrlhf_negdata.records import OUTCOMES, Graded, Problem, StepValues
from openrlhf_negdata.rollouts.engines import Continuation, Request, Sampling
from openrlhf_negdata.steps import PRESETS, Segmentation, split_steps
from openrlhf_negdata.steps.credit import credit, spread
from openrlhf_negdata.steps.driver import ValueJob, ValueResult, ValueRun, value_answers
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.values import Estimator
from openrlhf_negdata.tasks import Task, load

__all__ = [
    "OUTCOMES",
    "PRESETS",
    "Account",
    "Answered",
    "Arm",
    "Budget",
    "Continuation",
    "Estimator",
    "Graded",
    "Grader",
    "Problem",
    "Request",
    "Sampling",
    "Segmentation",
    "StepValues",
    "Task",
    "ValueJob",
    "ValueResult",
    "ValueRun",
    "Valuing",
    "answered",
    "build_rows",
    "credit",
    "grade_rows",
    "load",
    "split_steps",
    "spread",
    "value_answers",
]
