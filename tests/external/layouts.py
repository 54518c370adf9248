"""Checkpoints in the layouts that well-known trainings leave: the names of keys are facts.

Each takes a backbone's state dict and gives what `torch.save` gets.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]


def prefixed(state: State, prefix: str) -> State:
    """Under a prefix."""
    return {prefix + name: value for name, value in state.items()}


def other(state: State) -> State:
    """Weights of the same shapes that are not the backbone's."""
    return {n: v + 1 if v.is_floating_point() else v for n, v in state.items()}


def head(*names: str) -> State:
    """A projector, a classifier, a queue: what is not the backbone."""
    return {name: torch.randn(7, 5) for name in names}


def optimiser() -> dict[str, Any]:
    """What torch's optimisers save."""
    weight = torch.nn.Parameter(torch.randn(7, 5))
    made = torch.optim.AdamW([weight])
    weight.sum().backward()
    made.step()
    return made.state_dict()


def sequential(state: State, places: dict[str, int]) -> State:
    """Children by number, as in an nn.Sequential."""
    out = {}
    for name, value in state.items():
        first, _, rest = name.partition(".")
        out[f"{places[first]}.{rest}"] = value
    return out


TORCHVISION = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
LIGHTLY = {"conv1": 0, "bn1": 1, "layer1": 2, "layer2": 3, "layer3": 4, "layer4": 5}

# name → what is saved, for a ResNet
RESNETS: dict[str, Callable[[State], Any]] = {
    "plain": lambda s: {**s, **head("fc.weight", "fc.bias")},
    "torchvision's references": lambda s: {
        "model": {**s, **head("fc.weight")}, "optimizer": optimiser(), "epoch": 3,
        "args": argparse.Namespace(model="?", lr=0.1), "lr_scheduler": {"last_epoch": 3},
    },
    "DDP": lambda s: {"state_dict": prefixed(s, "module.")},
    "torch.compile": lambda s: prefixed(s, "_orig_mod."),
    "DDP of torch.compile": lambda s: {"model": prefixed(s, "module._orig_mod.")},
    "MoCo v2": lambda s: {
        "epoch": 200, "arch": "?", "optimizer": optimiser(),
        "state_dict": {
            **prefixed(s, "module.encoder_q."), **prefixed(other(s), "module.encoder_k."),
            **head("module.encoder_q.fc.0.weight", "module.encoder_k.fc.0.weight", "module.queue"),
        },
    },
    "MoCo v3": lambda s: {
        "state_dict": {
            **prefixed(s, "module.base_encoder."), **prefixed(other(s), "module.momentum_encoder."),
            **head("module.base_encoder.fc.0.weight", "module.predictor.0.weight"),
        },
    },
    "SimCLR (sthalles)": lambda s: {
        "state_dict": {**prefixed(s, "backbone."), **head("backbone.fc.0.weight")}
    },
    "SimCLR (converted)": lambda s: {"state_dict": prefixed(s, "convnet."), "step": torch.ones(())},
    "SimSiam": lambda s: {
        "state_dict": {**prefixed(s, "module.encoder."), **head("module.predictor.0.weight")}
    },
    "SwAV": lambda s: {
        "state_dict": {
            **prefixed(s, "module."),
            **head("module.projection_head.0.weight", "module.prototypes.weight"),
        },
        "amp": {"loss_scaler0": {"loss_scale": 1.0}},
    },
    "DINO": lambda s: {
        "student": {**prefixed(other(s), "module.backbone."), **head("module.head.mlp.0.weight")},
        "teacher": {**prefixed(s, "backbone."), **head("head.mlp.0.weight")},
        "optimizer": optimiser(), "args": argparse.Namespace(arch="?"),
        "dino_loss": head("center"), "fp16_scaler": {"scale": 65536.0},
    },
    "BYOL (lucidrains)": lambda s: {
        **prefixed(s, "online_encoder.net."), **prefixed(other(s), "target_encoder.net."),
        **head("online_encoder.projector.0.weight", "online_predictor.0.weight"),
    },
    "BYOL (online and target networks)": lambda s: {
        "online_network_state_dict": {**prefixed(s, "encoder."), **head("projetion.0.weight")},
        "target_network_state_dict": {**prefixed(other(s), "encoder."), **head("x.weight")},
    },
    "Barlow Twins": lambda s: {
        "epoch": 3,
        "model": {
            **prefixed(s, "module.backbone."),
            **head("module.projector.0.weight", "module.bn.running_mean"),
        },
        "optimizer": optimiser(),
    },
    "VICReg": lambda s: {
        "model": {**prefixed(s, "module.backbone."), **head("module.projector.0.weight")}
    },
    "VISSL": lambda s: {
        "classy_state_dict": {
            "base_model": {
                "model": {"trunk": prefixed(s, "_feature_blocks."), "heads": head("0.clf.weight")},
                "meta": {"num_classes": 10},
            },
        },
        "phase_idx": 1,
    },
    "mmpretrain": lambda s: {
        "meta": {"epoch": 3, "cfg": "model = dict()"},
        "state_dict": {**prefixed(s, "backbone."), **head("head.fc.weight")},
    },
    "mmselfsup BYOL": lambda s: {
        "state_dict": {
            **prefixed(s, "backbone."), **prefixed(other(s), "target_net.module.0."),
            **head("neck.fc0.weight"),
        },
    },
    "solo-learn": lambda s: {
        "state_dict": {
            **prefixed(s, "backbone."), **prefixed(other(s), "momentum_backbone."),
            **head("projector.0.weight", "classifier.weight"),
        },
        "hyper_parameters": {"backbone": {"name": "?"}}, "pytorch-lightning_version": "1.6",
        "optimizer_states": [optimiser()], "callbacks": {},
    },
    "lightly": lambda s: {
        "state_dict": {
            **prefixed(sequential(s, TORCHVISION), "backbone."),
            **prefixed(sequential(other(s), TORCHVISION), "backbone_momentum."),
            **head("projection_head.layers.0.weight"),
        },
    },
    "lightly's own ResNet": lambda s: {
        "state_dict": prefixed(sequential(s, LIGHTLY), "model.backbone.")
    },
    "lightly DINO": lambda s: {
        "state_dict": {
            **prefixed(sequential(other(s), TORCHVISION), "student_backbone."),
            **prefixed(sequential(s, TORCHVISION), "teacher_backbone."),
        },
    },
    "Lightning": lambda s: {
        "state_dict": {**prefixed(s, "model."), **head("criterion.weight")},
        "epoch": 3, "global_step": 9, "loops": {}, "lr_schedulers": [{"last_epoch": 3}],
    },
    "timm's train.py with EMA": lambda s: {
        "arch": "?", "state_dict": other(s), "state_dict_ema": s, "optimizer": optimiser(),
        "args": argparse.Namespace(model="?"), "metric": 71.2,
    },
}  # fmt: skip

# name → what is saved, for a vision transformer with timm's names
TRANSFORMERS: dict[str, Callable[[State], Any]] = {
    "timm": lambda s: {**s, **head("head.weight", "head.bias")},
    "MAE": lambda s: {
        "model": {
            **s, **head("decoder_embed.weight", "decoder_blocks.0.norm1.weight", "mask_token"),
        },
        "optimizer": optimiser(), "args": argparse.Namespace(model="?"),
    },
    "DINO": RESNETS["DINO"],
    "DINOv2": lambda s: {
        "teacher": {**prefixed(s, "backbone."), **head("dino_head.mlp.0.weight")},
        "student": prefixed(other(s), "backbone."),
    },
    "DINOv2, blocks in groups": lambda s: {
        "model": {
            "teacher": {
                "backbone." + (f"blocks.{n.split('.')[1]}.{n[7:]}" if "blocks" in n else n): v
                for n, v in s.items()
            },
        },
    },
    "MoCo v3": RESNETS["MoCo v3"],
    "mmpretrain": lambda s: {"state_dict": {f"backbone.{_mm(n)}": v for n, v in s.items()}},
}  # fmt: skip


def _mm(name: str) -> str:
    """A name of timm's vision transformer as mmpretrain has it."""
    changes = {
        "patch_embed.proj": "patch_embed.projection", "blocks.": "layers.", "norm1": "ln1",
        "norm2": "ln2", "mlp.fc1": "ffn.layers.0.0", "mlp.fc2": "ffn.layers.1",
    }  # fmt: skip
    if name.startswith("norm."):
        return name.replace("norm", "ln1")
    for before, after in changes.items():
        name = name.replace(before, after)
    return name
