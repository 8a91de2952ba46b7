"""What trained classifiers share: predictions, types, targets and class weights."""

import numpy as np
import pytest

from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.dataset import LabelledText
from tapir_exp.distillation.classifier.trainable import balanced_weights, known_tasks, task_indices


def test_balanced_weights_make_types_weigh_the_same() -> None:
    targets = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2])
    weights = balanced_weights(targets, 3)
    assert weights * np.bincount(targets) == pytest.approx(np.full(3, 3.0))


def test_task_indices_follow_the_order_of_task_types() -> None:
    rows = [LabelledText("a", TaskType.LAW), LabelledText("b", TaskType.MATH), LabelledText("c", TaskType.LAW)]
    tasks = known_tasks(rows)
    assert tasks == (TaskType.MATH, TaskType.LAW)
    assert task_indices(rows, tasks).tolist() == [1, 0, 1]
