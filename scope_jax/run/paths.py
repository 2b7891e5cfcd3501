"""Where everything lies in the folder of a run; ``folder`` has the picture."""

from pathlib import Path


class RunPaths:
    """The paths of a run; for readers."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def checkpoints(self, iteration: int, role: str) -> Path:
        """Folder of a training stage's checkpoints."""
        return self.path / "checkpoints" / f"iter_{iteration}" / role

    def rollouts(self, iteration: int, stage: str, step: int) -> Path:
        """File of a step's rollouts."""
        folder = self.path / "rollouts" / f"iter_{iteration}" / stage
        return folder / f"step_{step:04d}.jsonl"

    def export(self, iteration: int, role: str) -> Path:
        """Hugging Face folder of a role's weights at the end of an iteration."""
        return self.path / "export" / f"iter_{iteration}" / role

    def tasks(self, iteration: int) -> Path:
        """File of an iteration's tasks."""
        return self.path / "tasks" / f"iter_{iteration}.parquet"

    def task_batch(self, iteration: int, batch: int) -> Path:
        """File of the tasks that one batch of prompts gave."""
        return self.path / "tasks" / f"iter_{iteration}" / f"batch_{batch:04d}.parquet"

    def task_drafts(self, iteration: int, batch: int) -> Path:
        """File of what one batch of prompts was made into, until it is sifted."""
        return self.task_batch(iteration, batch).with_suffix(".written.json")
