"""Write a trained model as an ordinary LLaVA folder: weights, configs, tokenizer, processor.

Only JSON and safetensors are written here; transformers is not needed. Tensor names are the
hub's classic LLaVA names, which transformers (4 and 5) and vLLM load.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from training.vlm.language import LANGUAGE_CONFIG
from training.vlm.vision import VISION_CONFIG
from training.vlm.vocabulary import ANSWER, BEGIN, END, IMAGE, PAD, UNKNOWN, VOCABULARY

__all__ = ["CHAT_TEMPLATE", "classic_names", "export", "weights_of"]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> {% endif %}"
    "{% endfor %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def classic_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a ``JointModel`` state dict to classic LLaVA names, as contiguous float16."""
    renamed = {}
    for name, value in state.items():
        if name.startswith("eye.vision_tower."):
            rest = name.removeprefix("eye.vision_tower.")
            if rest in ("class_embedding", "patch_embedding.weight"):
                rest = f"embeddings.{rest}"
            elif rest == "position_embedding":
                rest = "embeddings.position_embedding.weight"
            elif rest.startswith("layers."):
                rest = f"encoder.{rest}"
            target = f"vision_tower.vision_model.{rest}"
        elif name.startswith("eye.multi_modal_projector."):
            target = name.removeprefix("eye.")
        elif name.startswith("language."):
            target = name.replace("language.", "language_model.", 1)
        else:
            raise ValueError(
                f"weight {name!r} has no place in a LLaVA checkpoint; export a joint checkpoint"
            )
        renamed[target] = value.detach().to(torch.float16).contiguous()
    return renamed


def weights_of(folder: Path, which: str = "current") -> dict[str, torch.Tensor]:
    """The joint model's weights of a training folder: ``current`` or the running ``average``."""
    from training.run import trained_weights

    if which not in ("current", "average"):
        raise ValueError(f"which={which!r} is unknown; use 'current' or 'average'")
    return trained_weights(folder, "joint", f"{which}.")


def export(state: dict[str, torch.Tensor], target: Path) -> None:
    """Write ``state`` (a ``JointModel`` state dict) and all configuration files to ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    weights = target / "model.safetensors"
    save_file(classic_names(state), weights, metadata={"format": "pt"})
    weights.chmod(0o644)
    for name, content in _configs().items():
        (target / name).write_text(json.dumps(content, indent=2) + "\n")
    (target / "chat_template.jinja").write_text(CHAT_TEMPLATE + "\n")


def _configs() -> dict[str, dict[str, Any]]:
    index = {word: idx for idx, word in enumerate(VOCABULARY)}
    text = {k: v for k, v in LANGUAGE_CONFIG.items() if k != "rope_theta"}
    ends = {"bos_token_id": index[BEGIN], "eos_token_id": index[END], "pad_token_id": index[PAD]}
    rope = {"rope_type": "default", "rope_theta": LANGUAGE_CONFIG["rope_theta"]}
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": index[IMAGE],
        "image_seq_length": 196,
        "torch_dtype": "float16",
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "pad_token_id": index[PAD],
        "multimodal_projector_bias": True,
        "text_config": {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            **text,
            **ends,
            "rope_theta": rope["rope_theta"],
            "rope_parameters": rope,
        },
        "vision_config": {"model_type": "clip_vision_model", **VISION_CONFIG},
    }
    special = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD, "unk_token": UNKNOWN}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 1024,
        **special,
        "image_token": IMAGE,
        "extra_special_tokens": {"image_token": IMAGE},
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "processor_class": "LlavaProcessor",
        "model_input_names": ["input_ids", "attention_mask"],
    }
    image_processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": 224, "width": 224},
        "resample": 3,
        "do_center_crop": False,
        "crop_size": {"height": 224, "width": 224},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "processor_class": "LlavaProcessor",
    }
    processor = {
        "processor_class": "LlavaProcessor",
        "patch_size": VISION_CONFIG["patch_size"],
        "vision_feature_select_strategy": "default",
        "image_token": IMAGE,
        "num_additional_image_tokens": 1,
    }
    return {
        "config.json": config,
        "tokenizer.json": _tokenizer(index),
        "tokenizer_config.json": tokenizer_config,
        "preprocessor_config.json": image_processor,
        "processor_config.json": processor,
        "generation_config.json": {**ends, "do_sample": False, "max_new_tokens": 8},
    }


def _tokenizer(index: dict[str, int]) -> dict[str, Any]:
    """A word-level tokenizer: lower case, pieces split as in ``vocabulary.encode``."""
    added = [
        {
            "id": index[word],
            "content": word,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for word in (PAD, END, UNKNOWN, IMAGE, BEGIN, ANSWER)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": "[0-9]|[a-z']+|\\?"},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {
                    "type": "Split",
                    "pattern": {"Regex": "[^0-9a-z'?]+"},
                    "behavior": "Removed",
                    "invert": False,
                },
            ],
        },
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "WordPiece", "prefix": "##", "cleanup": False},
                {"type": "Fuse"},
                {"type": "Replace", "pattern": {"Regex": "(?<=[0-9]) (?=[0-9])"}, "content": ""},
            ],
        },
        "model": {"type": "WordLevel", "vocab": index, "unk_token": UNKNOWN},
    }
