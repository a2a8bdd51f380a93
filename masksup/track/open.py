"""The trackers by name."""

from masksup.errors import UserError
from masksup.track.tracker import Tracker


def open_tracker(name: str, project: str, uri: str | None) -> Tracker:
    """The tracker `mlflow` or `wandb`. UserError where it is not installed, or has no `uri`."""
    if name == "mlflow":
        from masksup.track.to_mlflow import ToMlflow

        return ToMlflow(project, uri)
    if uri is not None:
        raise UserError("--uri: given with --to wandb, which goes by WANDB_BASE_URL; drop it")
    from masksup.track.to_wandb import ToWandb

    return ToWandb(project)
