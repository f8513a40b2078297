"""Does memory grow over many training steps, and how much does the default training take at most?

    python examples/reliability/memory.py --steps 10000 --data /path/to/mnist

Trains the default network (an STN on batches of 64 images, as examples/train_mnist.py does) and looks at the memory of
the process every hundred steps, with the garbage collector off: whatever forms a cycle stays and shows. Then one epoch
of the default training itself, in a process of its own, for its peak.

Writes reliability-memory.json to the folder.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import ministn
import ministn.functional as F
from ministn import optim, records
from ministn.data import DataLoader
from ministn.models import MnistSTN

BATCH = 64
EXAMPLES = Path(__file__).parents[1]


def memory_now() -> float:
    """Memory of this process, swapped or not, in MB; without pages of files, which come and go with other programs."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(status[name].split()[0]) for name in ("RssAnon", "VmSwap")) * 1024 / 1e6  # they are in KiB


def growth(steps: int, every: int = 100) -> dict[str, Any]:
    """Train for so many steps without the garbage collector.

    Returns
    -------
    dict
        ``"megabytes"``: `memory_now` every so many steps; ``"objects"``: how many objects the collector knows then.
    """
    ministn.manual_seed(0)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (10 * BATCH, 28, 28)).astype(np.uint8)
    loader = DataLoader(images, random.integers(0, 10, len(images)), BATCH)
    model = MnistSTN()
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)
    megabytes, objects, step = [], [], 0
    gc.collect()
    gc.disable()
    try:
        while step < steps:
            for batch, labels in loader:
                optimizer.zero_grad()
                F.nll_loss(model(batch), labels).backward()
                optimizer.step()
                step += 1
                if step % every == 0:
                    megabytes.append(round(memory_now(), 1))
                    objects.append(len(gc.get_objects()))
                if step == steps:
                    break
    finally:
        gc.enable()
    return {"steps": steps, "megabytes": megabytes, "objects": objects}


def peak_of_default_training(out: str | Path, *options: str) -> float:
    """Most memory, in MB, that an epoch of examples/train_mnist.py takes, in a process of its own."""
    code = (
        "import sys; sys.argv[0] = 'train_mnist.py'; import train_mnist\n"
        "assert train_mnist.main(sys.argv[1:]) == 0\n"
        # in KiB; ru_maxrss of resource.getrusage would be that of the process which started this one, if that is larger
        "print(*[line for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    command = [sys.executable, "-c", code, "--out", str(out), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(EXAMPLES), *sys.path])}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise RuntimeError(result.stderr[-2000:])
    return int(result.stdout.split()[-2]) * 1024 / 1e6  # "VmHWM:  331000 kB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)  # before the work
    result = growth(options.steps)
    with tempfile.TemporaryDirectory() as folder:
        result["peak megabytes of an epoch"] = round(peak_of_default_training(Path(folder) / "run", "--epochs", "1"))
    result |= {"environment": records.environment(), **records.code_version()}
    series = result["megabytes"]
    print(f"{options.steps} steps: {series[0]} MB after the first hundred, {series[-1]} MB at the end")
    print(f"peak of an epoch of the default training: {result['peak megabytes of an epoch']} MB")
    records.write_atomically(options.out / "reliability-memory.json", (json.dumps(result) + "\n").encode())


if __name__ == "__main__":
    main()
