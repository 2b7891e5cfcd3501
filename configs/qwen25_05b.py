"""The smallest iteration with a real pretrained model and real text, on a CPU.

Four prompts, groups of two, two Solver rollouts per task, one step per stage: enough to
read the results, far too little to learn anything. The prompts show example turns;
small models need them to follow the formats.

Hardware: two CPU cores and 18 GB of memory, or one GPU (then both processes share it).
Input: `--model.path`, a folder in Hugging Face format or a hub name of a family in
docs/families.md; `--retrieval.passages`, passages in any form of docs/your-text.md;
`--retrieval.encoder_path`, a sentence encoder (MiniLM, E5, bge), or
`--retrieval.encoder lexical`, which needs no weights.
Expect: about 35 minutes; then tasks, rubrics, answers and grades to read in
`runs/qwen25_05b/report.html`. Of eight tasks that a 0.5B model writes, three or four
have the required form; as a judge it says of nearly every rubric that it is met.

    python scripts/train.py --config qwen25_05b --model.path PATH \\
        --retrieval.passages FILE
"""

from dataclasses import replace

from retrieval.config import RetrievalConfig
from rl.engine.config import EngineConfig
from rl.learner.config import UpdateConfig
from rl.records import SamplingParams
from scope_jax.config import (
    CheckpointConfig,
    Config,
    DocumentsConfig,
    ModelConfig,
    StageConfig,
    TasksConfig,
    solver_stage,
)
from scope_jax.inference import InferenceConfig
from scope_jax.method.challenger import ChallengerConfig
from scope_jax.method.judge import JudgeConfig
from scope_jax.system.placement import gpus

# At temperature 1 a model of this size strays from the formats in most turns.
TURN = SamplingParams(temperature=0.7, max_new_tokens=256)
LENGTH = 2048


def config() -> Config:
    """The method's constants, except where they concern size."""
    engine = EngineConfig(slots=8, max_length=LENGTH, prefill_rows=4)
    return Config(
        name="qwen25_05b",
        prompts="few_shot",
        iterations=1,
        model=ModelConfig(path="Qwen/Qwen2.5-0.5B-Instruct"),
        documents=DocumentsConfig(rows=16),
        challenger=ChallengerConfig(
            schedule="1",
            rollouts=2,
            rollout_sampling=SamplingParams(
                temperature=0.7, top_p=0.9, max_new_tokens=TURN.max_new_tokens
            ),
            rollout_context_tokens=LENGTH,
            rollout_tokens_tasks=TURN.max_new_tokens,
            tool_tokens=250,
        ),
        judge=JudgeConfig(
            # Asked and reported, not enforced: a judge of this size guesses.
            required_gates=0,
            grade_tokens=256,
            rubric_tokens=256,
            rubric_tokens_tasks=256,
            gate_tokens=256,
        ),
        tasks=TasksConfig(
            target=4,
            prompts_per_batch=4,
            max_batches=1,
            samples=2,
            # every task whose answers can be graded: there are few to look at
            low=0.0,
            high=1.0,
            solver_rollouts=2,
            sub_batch=8,
            max_turns=5,
            max_context_tokens=LENGTH,
            sampling=TURN,
        ),
        challenger_train=_one_step(StageConfig()),
        solver_train=_one_step(solver_stage()),
        engine=engine,
        retrieval=RetrievalConfig(
            encoder="transformer",
            encoder_path="sentence-transformers/all-MiniLM-L6-v2",
            passage_prefix="",
            query_prefix="",
        ),
        # Gates and grades come by the dozen: twice the rows cost 1.6 times the step.
        inference=InferenceConfig(
            engine=replace(engine, slots=16), request_timeout=3600.0
        ),
        placement=gpus(trainer=1, inference=0),
        checkpoint=CheckpointConfig(every=1),
    )


def _one_step(stage: StageConfig) -> StageConfig:
    return replace(
        stage,
        steps=1,
        prompts_per_step=4,
        group_size=2,
        sampling=TURN,
        max_prompt_tokens=1536,
        max_response_tokens=2048,
        max_context_tokens=LENGTH,
        update=UpdateConfig(
            length=LENGTH,
            rows=1,
            capacity=4,
            logit_chunk=128,
            temperature=TURN.temperature,
        ),
    )
