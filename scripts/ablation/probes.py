"""How well a model does one of the judge's jobs, as ``weaken`` asks."""

from ablation.arms import Job
from ablation.weaken import Accuracy


def accuracy(job: Job) -> Accuracy:
    """What measures a model at a job: rubrics that are true, grades that are right.

    A weakened model is not made again when this changes: empty the cache then.
    """
    import jax

    from pretraining import probe

    jax.config.update("jax_platforms", "cpu")  # the runs need the GPUs
    return lambda folder: probe.accuracy(folder, job)
