"""Judge responses while others are still being generated."""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from tapir_exp.config import JudgeConfig
from tapir_exp.core.records import Response, Verdict
from tapir_exp.core.stored_rows import in_order
from tapir_exp.distillation.judge.parse import PARSERS, Scores
from tapir_exp.distillation.judge.requests import PendingPair, Presentation, presentations, requests_for
from tapir_exp.distillation.judge.score import VerdictCollector
from tapir_exp.llm.executor import OnResult, RequestResult
from tapir_exp.llm.ledger import Spend
from tapir_exp.llm.streaming import StreamableModel, StreamingExecutor


class StreamingJudge(AbstractContextManager["StreamingJudge"]):
    """Judge that asks about every response as soon as it is submitted; its verdicts equal those of `score_pairs`.

    Example:
        with StreamingJudge(pairs, ws.judge, config, stage="verdicts-1", label="judge: S_1") as judge:
            responses = generate(prompts, on_response=judge.submit)
            verdicts = judge.finish(responses)
    """

    def __init__(
        self,
        pairs: Sequence[PendingPair],
        model: StreamableModel,
        config: JudgeConfig,
        *,
        stage: str,
        label: str,
        on_result: OnResult | None = None,
        verdicts: MutableMapping[int, Verdict] | None = None,
    ) -> None:
        """Prepare the judge; nothing is opened before the first response.

        Args:
            pairs: What to judge, without the student's responses.
            model: The judge.
            config: The settings of the judge. One that writes notes cannot stream: see `score_pairs`.
            stage: The stage that the spend is recorded under.
            label: Name of the progress bar and of error messages.
            on_result: Called with the index of each request, which counts the requests of all pairs in order, and its
                result; its error stops the judge.
            verdicts: Gets the verdicts, by the index of their pair; by default they stay in memory.
        """
        self._config, self._pairs, self._on_result = config, pairs, on_result
        self._numbers = {pair.id: number for number, pair in enumerate(pairs)}
        self._submitted = bytearray(len(pairs))  # 1 for a pair that was submitted
        self._collected = VerdictCollector(
            lambda number: pairs[number].id, config, {} if verdicts is None else verdicts
        )
        self._executor: StreamingExecutor[Scores] = StreamingExecutor(
            model,
            PARSERS[config.protocol],
            stage=stage,
            label=label,
            total=len(pairs) * len(presentations(config)),
            concurrency=config.most_in_flight,
            max_failure_rate=config.max_failure_rate,
            on_result=self._add,
            keep_results=False,
        )

    def __enter__(self) -> Self:
        self._executor.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.__exit__(kind, error, trace)

    @property
    def spend(self) -> Mapping[str, Spend]:
        """Spend by role; complete after `finish`."""
        return self._executor.spend

    def submit(self, response: Response) -> None:
        """Start to judge a response; one that belongs to no pair, or was submitted before, is ignored."""
        number = self._numbers.get(response.id)
        if number is None or self._submitted[number]:
            return
        self._submitted[number] = 1
        requests = requests_for(self._pairs[number].with_response(response), self._config)
        # The index orders the requests by pair, however the responses arrive.
        for index, request in enumerate(requests, number * len(requests)):
            self._executor.submit(index, request.request)

    def shown_at(self, index: int) -> tuple[str, Presentation]:
        """Return the row id of a request, and what it shows, for a request that `on_result` was called with."""
        return self._collected.shown_at(index)

    def finish(self, responses: Iterable[Response]) -> Sequence[Verdict]:
        """Return one verdict for each pair, in order, once all are there. Raises like `score_pairs`.

        Args:
            responses: All responses; those that were not submitted, since another process made them, are judged now.
        """
        for response in responses:
            self.submit(response)  # ignores those that were submitted while they were generated
        self._executor.finish()
        return in_order(self._collected.verdicts, len(self._pairs))

    def _add(self, index: int, result: RequestResult[Scores]) -> None:
        self._collected.add(index, result)
        if self._on_result is not None:
            self._on_result(index, result)
