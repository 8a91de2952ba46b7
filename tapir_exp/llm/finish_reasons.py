"""Reasons why a reply ended, under the names of all providers."""

STOP, LENGTH, FILTERED = "stop", "length", "content_filter"

_NAMES = {
    STOP: "stop end_turn eos eos_token stop_sequence stop_token end_of_text complete completed finished finish done",
    LENGTH: (
        "length max_tokens max_output_tokens max_completion_tokens max_new_tokens max_length model_length token_limit "
        "model_context_window_exceeded"
    ),
    FILTERED: (
        "content_filter content_filtered safety recitation blocklist prohibited_content spii image_safety refusal "
        "sensitive guardrail_intervened error_toxic"
    ),
}
_MEANING = {name: meaning for meaning, names in _NAMES.items() for name in names.split()}


def read_finish_reason(reason: object) -> str:
    """Return `stop`, `length` or `content_filter` for a reason under any provider's name.

    Any other reason, also null, means that the reply may not be whole. It is returned as text, null as `null`.
    """
    if reason is None:
        return "null"
    if reason == STOP:  # nearly always
        return STOP
    name = str(reason).rpartition(".")[2].strip().lower().replace("-", "_").replace(" ", "_")
    return _MEANING.get(name) or _MEANING.get(name.removeprefix("finish_reason_"), str(reason)[:80] or "null")
