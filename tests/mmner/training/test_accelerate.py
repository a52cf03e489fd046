"""The configurations for `accelerate launch`, and fully sharded training against replicated."""

import itertools
import os
from pathlib import Path

import own_process
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from tiny_models import tiny_batch, tiny_model

CONFIGURATIONS = Path(__file__).resolve().parents[3] / "recipes" / "accelerate"
KINDS = ["clip", "token"]
STEPS = 20


def launch_arguments(name: str):
    """What `accelerate launch` makes of a configuration file."""
    arguments = launch_command_parser().parse_args(["--config_file", str(CONFIGURATIONS / name), "run_mmner.py"])
    return _validate_launch_command(arguments)[0]


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("ddp.yaml", DistributedType.MULTI_GPU),
        ("fsdp2.yaml", DistributedType.FSDP),
        ("deepspeed_zero2.yaml", DistributedType.DEEPSPEED),
    ],
)
def test_accelerate_reads_the_configuration(name, engine):
    assert load_config_from_file(str(CONFIGURATIONS / name)).distributed_type == engine  # raises on an unknown key
    arguments = launch_arguments(name)
    assert (arguments.num_processes, arguments.mixed_precision) == (8, "no")
    assert arguments.use_fsdp == (engine == DistributedType.FSDP)
    assert arguments.use_deepspeed == (engine == DistributedType.DEEPSPEED)


def fsdp_environment(layers: str) -> dict[str, str]:
    """What `accelerate launch` sets for `fsdp2.yaml`, with the layers of other towers."""
    found = {k: v for k, v in prepare_multi_gpu_env(launch_arguments("fsdp2.yaml")).items() if "FSDP" in k}
    assert (found["ACCELERATE_USE_FSDP"], found["FSDP_VERSION"]) == ("true", "2")
    return found | {"FSDP_TRANSFORMER_CLS_TO_WRAP": layers}


def step_batch(step: int, rank: int) -> dict[str, torch.Tensor]:
    """On every fifth step the second process has no image at all, on others the two share some."""
    without = step % 5 == 4 and rank == 1
    return tiny_batch(seed=100 * step + rank, images=(0, 0, 0, 0) if without else (1, 0, 2 + rank, 1))


def run_process(folder: str) -> None:
    """Each process: the same training twice, replicated and fully sharded; the first writes the loss curves."""
    import torch.distributed as dist
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.state import AcceleratorState
    from torch.distributed.fsdp import FSDPModule

    torch.set_num_threads(1)
    got = {}
    for engine, kind in itertools.product(("ddp", "fsdp2"), KINDS):
        AcceleratorState._reset_state()
        if engine == "fsdp2":
            os.environ |= fsdp_environment("BertLayer,ViTLayer")
        accelerator = Accelerator(cpu=True)
        if engine == "fsdp2":
            # Accelerate shards on accelerators alone and, on a CPU, would quietly replicate. Nothing of the sharding
            # itself asks for one.
            accelerator.state._shared_state["distributed_type"] = DistributedType.FSDP
            accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()  # of the environment
        model = tiny_model(alignment=kind, collaboration="gated", alignment_weight=1.0).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        model, optimizer = accelerator.prepare(model, optimizer)
        losses = []
        for step in range(STEPS):
            output = model(**step_batch(step, dist.get_rank()))
            accelerator.backward(output.loss)
            optimizer.step()
            optimizer.zero_grad()
            loss = torch.stack([output.loss.detach().reshape(()), output.alignment_loss.detach().reshape(())])
            dist.all_reduce(loss)
            losses.append(loss / 2)
        got[engine, kind] = torch.stack(losses)
        got[engine, kind, "sharded"] = sum(isinstance(part, FSDPModule) for part in model.modules())
        model.eval()
        with torch.no_grad():
            got[engine, kind, "logits"] = model(**step_batch(4, dist.get_rank())).logits
    torch.save(got, Path(folder) / f"{dist.get_rank()}.pt")


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> list[dict]:
    return own_process.run_two(__file__, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("kind", KINDS)
def test_sharded_and_replicated_training_have_the_same_loss_curve_and_evaluation(processes, kind):
    replicated, sharded = (processes[0][engine, kind] for engine in ("ddp", "fsdp2"))
    assert processes[0]["ddp", kind, "sharded"] == 0
    assert processes[0]["fsdp2", kind, "sharded"] == 6, "two layers of each tower, the embeddings, the whole"
    assert replicated.shape == (STEPS, 2) and replicated[-4:, 0].mean() < replicated[:4, 0].mean() - 0.5
    torch.testing.assert_close(sharded, replicated, atol=1e-4, rtol=1e-4)
    for process in processes:  # one of them has no image
        logits = [process[engine, kind, "logits"] for engine in ("fsdp2", "ddp")]
        torch.testing.assert_close(*logits, atol=1e-3, rtol=1e-3)
