"""Load an exported folder into the plain-torch training model (the inverse of ``export``)."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from training.vlm.joint import JointModel

__all__ = ["load_model"]


def load_model(folder: Path) -> JointModel:
    """Return the exported model as a float32 ``JointModel`` in evaluation mode.

    Raises:
        FileNotFoundError: ``folder`` holds no exported model.
    """
    file = folder / "model.safetensors"
    if not file.exists():
        raise FileNotFoundError(f"{folder} holds no model.safetensors; export a model to it first")
    state = {}
    for name, value in load_file(file).items():
        name = name.replace("vision_tower.vision_model.", "eye.vision_tower.")
        name = name.replace("embeddings.position_embedding.weight", "position_embedding")
        name = name.replace("vision_tower.embeddings.", "vision_tower.").replace("encoder.", "")
        name = name.replace("language_model.", "language.")
        if name.startswith("multi_modal_projector."):
            name = f"eye.{name}"
        state[name] = value.float()
    model = JointModel()
    model.load_state_dict(state)
    return model.eval()
