"""Train one small network per family, for ``accuracy.py``: networks unlike those of ``../shared``.

Each is taught by resnet20 of ``../shared`` on the images of ``cifar10/train`` and ``photos``,
mixed, moved, mirrored and recoloured; no label takes part. Their accuracy does not matter: what
is asked is how often the quantized network gives its own teacher's answer.

    python benchmarks/families.py --out runs/families --networks densenet,wide_resnet
    python benchmarks/accuracy.py --models runs/families --networks densenet,wide_resnet \
        --settings w4a4 --recipes fast --out runs/families-accuracy
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
import torch.nn.functional as F
from accuracy import NETWORKS
from family_networks import FAMILIES
from profile_steps import model_options
from torch import Tensor, nn

from lrq_deploy.cli.job.preparing import load_teacher
from lrq_deploy.images import read_image_folder
from lrq_deploy.teacher import Teacher

IMAGES = ("cifar10/train", "photos")
BATCH = 64
RATE, DECAY = 3e-3, 2e-2
BORDER = 4
TEMPERATURE = 3.0


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", default="../shared", type=Path)
    parser.add_argument("--out", default="runs/families", type=Path)
    parser.add_argument("--networks", default=",".join(FAMILIES))
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    missing = [n for n in options.networks.split(",") if not (options.out / f"{n}.pt").exists()]
    teacher = load_teacher(model_options(NETWORKS["resnet20"], options.shared))
    images = torch.cat([_images(teacher, options.shared / "data" / name) for name in IMAGES])
    for name in missing:
        torch.manual_seed(0)
        network = FAMILIES[name]()
        loss = train(network, teacher, images, options.steps)
        print(f"{name}: loss {loss:.2f}", file=sys.stderr, flush=True)
        torch.save(network.state_dict(), options.out / f"{name}.pt")


def _images(teacher: Teacher, folder: Path) -> Tensor:
    found = read_image_folder(folder, teacher.input_shape, teacher.preprocessing, None)
    return torch.cat(list(found.batches(BATCH)))


def train(network: nn.Module, teacher: Teacher, images: Tensor, steps: int) -> float:
    """Distil ``teacher`` into ``network`` in place; the loss of the last step."""
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    last = torch.zeros(())
    for _ in range(steps):
        batch = varied(images[torch.randint(len(images), (BATCH,))])
        with torch.no_grad():
            wanted = teacher.graph(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(batch.contiguous(memory_format=torch.channels_last))
        logits = logits.float()
        mine, theirs = ((z / TEMPERATURE).log_softmax(1) for z in (logits, wanted))
        last = F.mse_loss(logits, wanted) / 5
        last = last + F.kl_div(mine, theirs, reduction="batchmean", log_target=True)
        optimizer.zero_grad()
        last.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    return float(last.detach())


def varied(batch: Tensor) -> Tensor:
    """Normalised images ``[N, C, H, W]``, moved, mirrored, mixed and recoloured at random."""
    height, width = batch.shape[2:]
    top, left = torch.randint(2 * BORDER + 1, (2,)).tolist()
    batch = F.pad(batch, (BORDER,) * 4, mode="reflect")[:, :, top:, left:][:, :, :height, :width]
    batch = batch.flip(3) if torch.rand(()) < 0.5 else batch
    share = torch.rand(()) if torch.rand(()) < 0.7 else torch.ones(())
    batch = share * batch + (1 - share) * batch[torch.randperm(len(batch))]
    contrast, colour = torch.rand(len(batch), 1, 1, 1), torch.rand(len(batch), 3, 1, 1)
    return batch * (0.7 + 0.6 * contrast) + (colour - 0.5)


if __name__ == "__main__":
    main()
