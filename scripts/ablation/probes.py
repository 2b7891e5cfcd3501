"""How well a model does one of the judge's jobs, as ``weaken`` asks.

The cases are the scripted ones of the warm start, drawn from the part of the world that
is trained on with a seed of their own, sampled greedily.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np

from ablation.arms import Job
from ablation.weaken import Accuracy
from rl.records import SamplingParams
from scope_jax.method import judge

CASES, SEED = 400, 23
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=128)


def rubrics_true(written: str, wanted: str) -> float:
    """Share of the rubrics written that are among the wanted ones; 0 of none."""
    found = [rubric.text for rubric in judge.parse_rubrics(written).rubrics]
    right = {rubric.text for rubric in judge.parse_rubrics(wanted).rubrics}
    return fmean(text in right for text in found) if found else 0.0


def grade_right(written: str, wanted: str) -> float:
    """1 if the grade is the wanted one."""
    return float(judge.parse_grade(written) == judge.parse_grade(wanted))


SCORES: dict[Job, tuple[str, Callable[[str, str], float]]] = {
    "rubrics": ("rubric", rubrics_true),
    "grades": ("grader", grade_right),
}
"""Of each job, the name of its transcripts, and the score of one output."""


def accuracy(job: Job) -> Accuracy:
    """What measures a model at a job: rubrics that are true, grades that are right."""
    import jax

    from models import hf
    from pretraining.player import Player
    from pretraining.transcripts import Script
    from scope_jax.small_world.world import generate

    jax.config.update("jax_platforms", "cpu")  # the runs need the GPUs
    name, score = SCORES[job]
    world = generate()
    script = Script(world, np.random.default_rng([SEED]), splits=("train",))
    played = [script.play(name, "search_r1") for _ in range(CASES)]
    asked = [transcript.messages[:-1] for transcript in played]
    wanted = [transcript.messages[-1]["content"] for transcript in played]

    def measured(folder: Path) -> float:
        tokenizer = hf.load_tokenizer(folder)
        decoder, params = hf.load(folder)
        player = Player(decoder, params, world, tokenizer)
        written = player.complete(asked, GREEDY, job=name)
        return fmean(map(score, written, wanted))

    return measured
