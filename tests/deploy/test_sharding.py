"""Two real processes, each with half of the weights, and the answers of the whole model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from torch import nn
from transformers import ViTConfig, ViTModel

from visionquant.bench import loading
from visionquant.bench.backends import convert
from visionquant.core.errors import StudyError
from visionquant.deploy import serialization, sharding
from visionquant.settings.params import parse

ROWS = parse(tiny.settings()).precisions
LIMIT_S = 240


def exported(folder: Path, precision: str) -> Path:
    config = ViTConfig(
        hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256, image_size=32, patch_size=8
    )
    net = ViTModel(config)
    loading.seed_weights(net, 0)
    row = ROWS[precision]
    serialization.save(
        convert.convert(net, row, "cpu"),
        row,
        folder,
        device="cpu",
        input_size=32,
        weights="seeded",
        source="made up",
    )
    return folder


def torchrun(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "visionquant.deploy.sharding", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_of_two_ranks_holds_half_and_answers_like_the_whole(precision: str, tmp_path: Path) -> None:
    done = torchrun(exported(tmp_path / "whole", precision))
    assert done.returncode == 0, done.stderr
    shares = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert sorted(share["rank"] for share in shares) == [0, 1]
    for share in shares:
        assert share["ranks"] == 2
        assert share["identical"], share
        assert 0.45 < share["local_bytes"] / share["whole_bytes"] < 0.55
    assert sum(share["local_bytes"] for share in shares) == shares[0]["whole_bytes"]


def test_a_quantised_model_is_refused_before_any_process_waits_for_another(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="the model is quantised; export a float precision"):
        sharding.compare_ranks(exported(tmp_path / "nf4", "nf4"))
    with pytest.raises(StudyError, match="the model is quantised"):
        sharding.shard(serialization.restore(tmp_path / "nf4").net)


def test_what_a_rank_holds_is_counted_in_bytes() -> None:
    assert sharding.local_bytes(nn.Linear(3, 5)) == 4 * (15 + 5)
