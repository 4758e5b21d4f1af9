"""What a run imports until its first step: what takes seconds and is not needed by then is not imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOT_NEEDED = (
    "lightning", "pytorch_lightning", "torchmetrics", "monai", "kornia", "sklearn", "scipy.stats", "scipy.optimize", "matplotlib",
    "captum", "segmentation_models_pytorch", "tensorboard", "torch.utils.tensorboard", "pydicom", "highdicom", "nibabel",
    "imagecodecs", "tifffile", "openpyxl", "jinja2", "transformers", "onnx", "torch._inductor.compile_fx",
)  # fmt: skip
LABELS_NEED = ("sklearn", "scipy.stats", "scipy.optimize")  # whether other columns give a label away is a tree's work
DRIVER = """
import json, sys
from scotoma import {verb}
from scotoma.training import trainer

def record():
    print(json.dumps([name for name in sys.argv[1].split(",") if name in sys.modules]), flush=True)

step_loss = trainer.step_loss
def first(*arguments):
    trainer.step_loss = step_loss
    record()
    return step_loss(*arguments)
trainer.step_loss = first
"""
VERBS = {
    "pretrain": "pretrain('phantom:40', out=sys.argv[2], size=32, encoder='resnet10t', batch_size=8, steps=2, quiet=True)",
    "finetune": "finetune('phantom:40', 'cardiomegaly', sys.argv[2], sys.argv[2] + '-f', batch_size=8, steps=2, quiet=True)",
    "embed": "embed(sys.argv[2], 'phantom:40', sys.argv[2] + '.parquet', quiet=True); record()",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("imports") / "run"


@pytest.mark.parametrize("verb", VERBS)  # in this order: the first leaves the encoder that the others take
def test_nothing_slow_is_imported_before_it_is_needed(verb: str, run: Path) -> None:
    code = DRIVER.format(verb=verb) + VERBS[verb]
    done = subprocess.run([sys.executable, "-c", code, ",".join(NOT_NEEDED), str(run)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[0])
    assert set(found) <= set(LABELS_NEED if verb == "finetune" else ())


def test_what_would_be_imported_is_seen() -> None:
    code = DRIVER.format(verb="pretrain") + "import matplotlib.figure\nrecord()"
    done = subprocess.run([sys.executable, "-c", code, ",".join(NOT_NEEDED)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["matplotlib"]
