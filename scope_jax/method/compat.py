"""Switches that turn on the released reference's behaviour where ours differs.

Every switch is off by default and named after its subject; the number is its row in the
list of quirks (spec 15).
"""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Compat:
    """The reference's behaviour, one switch per subject."""

    empty_task_prompt: bool = False
    """Q3: task creation writes rubrics and grades without showing the task."""
    misindexed_tool_score: bool = False
    """Q4: the tool score of tool_call looks for results at guidance turns."""
    verdicts_in_thinking: bool = False
    """Q10: the first score or rubrics block counts even inside a thinking block."""
    tool_text_limits: bool = False
    """Q13: task creation cuts tool text to 500 characters, and policy rollouts in the
    tool_call format cut the JSON around it. Off: 500 tokens of text everywhere."""
    unguided_tool_calls: bool = False
    """Q14: task creation in the tool_call format gives no guidance after a search and
    has no stop strings."""
    mean_over_lines: bool = False
    """Q39: ratings of many questions are averaged over the lines that could be read.
    Off: over the questions."""
    sliding_context: bool = False
    """Q48: a search_r1 rollout whose context is full continues with its last tokens,
    one fewer than a response may have. Off: it ends with reason `length`."""
    close_opened_tags: bool = False
    """Q51: policy rollouts close every stop tag that is opened and not closed, even one
    that thinking names. Off: a turn's text is what was sampled."""
    ends_in_thinking: bool = False
    """Q52: a policy turn in the tool_call format without a call ends at a `<task>` or
    `<answer>` that thinking only names. Off: thinking is not read."""
    cut_thinking_trained: bool = False
    """Q53: a turn that was cut inside its thinking is trained on as the template writes
    it, behind an empty thinking block. Off: it is left out of the loss."""
    first_line_documents: bool = False
    """Q54: of a document's text the Challenger reads the first line. Off: all of it, up
    to documents.max_tokens."""
    micro_batch_mean: bool = False
    """Q20: the loss is a token mean of each micro-batch, so that its size matters."""

    @classmethod
    def released(cls) -> "Compat":
        """Every switch on: what the public reference does."""
        return cls(**{field.name: True for field in fields(cls)})


OFF = Compat()
"""No switch on: the default."""
