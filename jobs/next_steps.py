"""What somebody can do about an error that does not say so itself."""

from model.checkpoint_files import CheckpointError
from pipeline.row_files import RowFileError

_NEXT_STEPS = {
    CheckpointError: "magihuman check-checkpoint says what a folder holds, docs/checkpoints.md what it must hold",
    RowFileError: "examples/ has manifests and campaigns, docs/manifest.md and docs/localization.md say how they look",
}


def with_next_step(error: Exception) -> str:
    """The error in one line, and where there is one the next step."""
    step = next((step for kind, step in _NEXT_STEPS.items() if isinstance(error, kind)), "")
    return f"{error}; {step}" if step else str(error)
