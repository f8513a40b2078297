"""Does ministn train as PyTorch does? The tutorial's network and recipe in both.

    python examples/benchmarks/agreement.py steps   # the same weights and batches: losses and gradients
    python examples/benchmarks/agreement.py seeds   # ten seeded runs each: are the accuracies of one kind?
    python examples/benchmarks/agreement.py dips    # one step, many dropout masks: where do low accuracies come from?
    python examples/benchmarks/agreement.py plot    # draw what the three have written to --folder

`steps` switches dropout off, since the two draw different masks, and follows both for some hundred steps of SGD. Where
the loss has kinks, rounding decides which way a gradient goes, and two right answers part. MNIST is full of kinks:
whole regions of equal background make ties in max pooling, and an STN that starts at the identity has every sample on a
kink of bilinear sampling. So `steps` shows three things side by side: digits, and digits with a little noise, which
breaks the ties; float32 and float64; and, as a measure of what rounding alone does, PyTorch against PyTorch with
another memory layout (channels_last), which sums in another order.

`seeds` trains with dropout, every run from its own weights and order, and compares the two lists of test accuracies
with the Mann-Whitney test. It also repeats one run, which must give the same bits.

`dips` looks into a low outlier among the seeds. It trains one seed up to its very last step, takes that step many times
in both libraries, each time from the same weights and with fresh dropout masks, and lists the accuracies after it. (The
last batch of an epoch has 32 images, not 64.)

Each prints its figures and writes them as JSON to the folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch_stn import TorchSTN
from tqdm import tqdm

import ministn
import ministn.functional as F
from ministn import Tensor, data, optim, records, training
from ministn.models import MnistSTN

LEARNING_RATE, BATCH_SIZE = 0.01, 64  # the tutorial's


def ministn_step(model, optimizer, images, labels):
    optimizer.zero_grad()
    loss = F.nll_loss(model(images), labels)
    loss.backward()
    optimizer.step()
    return float(loss.item())


def torch_step(model, optimizer, images, labels):
    optimizer.zero_grad()
    loss = torch.nn.functional.nll_loss(model(images), labels)
    loss.backward()
    optimizer.step()
    return float(loss.item())


def to_torch(images, labels):
    return torch.from_numpy(np.ascontiguousarray(images.numpy())), torch.from_numpy(labels)


def twins(seed, dtype=np.float32):
    """The same weights as a ministn model and as a PyTorch model, without dropout."""
    ministn.manual_seed(seed)
    ours, theirs = MnistSTN(dropout=0.0).astype(dtype), TorchSTN(dropout=0.0)
    theirs = theirs.double() if dtype == np.float64 else theirs
    theirs.load_state_dict({name: torch.from_numpy(value.numpy().copy()) for name, value in ours.state_dict().items()})
    return ours, theirs


def compare_steps(dataset, steps, seed, noise, dtype, progress):
    """Per step, the loss of ministn, of PyTorch, and of PyTorch in another layout, over the same batches."""
    ours, theirs = twins(seed, dtype)
    _, again = twins(seed, dtype)
    again = again.to(memory_format=torch.channels_last)
    our_sgd = optim.SGD(ours.parameters(), lr=LEARNING_RATE)
    their_sgd, again_sgd = (torch.optim.SGD(model.parameters(), lr=LEARNING_RATE) for model in (theirs, again))
    losses = []
    for images, labels in noisy_batches(dataset, steps, seed, noise, dtype):
        torch_images, torch_labels = to_torch(images, labels)
        other_layout = torch_images.contiguous(memory_format=torch.channels_last)
        losses.append(
            (
                ministn_step(ours, our_sgd, images, labels),
                torch_step(theirs, their_sgd, torch_images, torch_labels),
                torch_step(again, again_sgd, other_layout, torch_labels),
            )
        )
        progress.update()
    return np.array(losses)


def noisy_batches(dataset, steps, seed, noise, dtype=np.float32):
    """The first `steps` batches of training; `noise` is the standard deviation added, in units of the data's own."""
    random = np.random.default_rng(seed)
    loader = mnist_loader(dataset, seed)
    batches = itertools.chain.from_iterable(iter(loader) for _ in itertools.count())
    for images, labels in itertools.islice(batches, steps):
        noisy = images.data + noise * random.standard_normal(images.shape, np.float32) if noise else images.data
        yield Tensor(noisy.astype(dtype)), labels


def compare_gradients(ours, theirs, images, labels):
    """For each parameter, the largest difference of the gradients relative to the largest entry; no dropout."""
    ours.eval().zero_grad()
    theirs.eval().zero_grad()
    F.nll_loss(ours(images), labels).backward()
    torch_images, torch_labels = to_torch(images, labels)
    torch.nn.functional.nll_loss(theirs(torch_images), torch_labels).backward()
    expected = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    return {
        name: float(np.abs(parameter.grad.numpy() - expected[name]).max() / max(np.abs(expected[name]).max(), 1e-30))
        for name, parameter in ours.named_parameters()
    }


def all_steps(dataset, steps, seed):
    """The tables that `steps` prints: gradients of the first step, and how far the losses part."""
    gradients, differences, losses = {}, {}, {}
    with tqdm(total=4 * steps, desc="steps", disable=None) as progress:
        for noise, dtype in itertools.product((0.0, 0.01), (np.float32, np.float64)):
            name = f"digits{' with noise' if noise else ''}, {np.dtype(dtype).name}"
            gradients[name] = compare_gradients(
                *twins(seed, dtype), *next(noisy_batches(dataset, 1, seed, noise, dtype))
            )
            curves = compare_steps(dataset, steps, seed, noise, dtype, progress)
            losses[name] = dict(zip(("ministn", "torch", "torch channels_last"), curves.T.tolist(), strict=True))
            for peer, column in (("ministn - torch", 0), ("torch channels_last - torch", 2)):
                difference = np.abs(curves[:, column] - curves[:, 1])
                differences[f"{name}: {peer}"] = {
                    f"first {count}": float(difference[:count].max()) for count in (1, 50, steps) if count <= steps
                }
    return {"first_step_gradients": gradients, "largest_loss_difference": differences, "losses": losses}


def train_ministn(dataset, seed, epochs):
    ministn.manual_seed(seed)
    model = MnistSTN()
    optimizer = optim.SGD(model.parameters(), lr=LEARNING_RATE)
    loader = mnist_loader(dataset, seed)
    model.train()
    for _ in range(epochs):
        for images, labels in loader:
            ministn_step(model, optimizer, images, labels)
    weights = np.concatenate([value.numpy().ravel() for value in model.state_dict().values()])
    return ministn_accuracy(model, dataset), weights


def train_torch(dataset, seed, epochs):
    torch.manual_seed(seed)
    model = TorchSTN()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    loader = mnist_loader(dataset, seed)
    model.train()
    for _ in range(epochs):
        for images, labels in loader:
            torch_step(model, optimizer, *to_torch(images, labels))
    return torch_accuracy(model, dataset)


def ministn_accuracy(model, dataset):
    return training.evaluate(model, test_loader(dataset)).accuracy


def torch_accuracy(model, dataset):
    model.eval()
    with torch.no_grad():
        guesses = [model(to_torch(images, labels)[0]).argmax(dim=1).numpy() for images, labels in test_loader(dataset)]
    return float(np.mean(np.concatenate(guesses) == dataset.test_labels))


def mnist_loader(dataset, seed):
    images, labels = dataset.train_images, dataset.train_labels
    return data.DataLoader(images, labels, BATCH_SIZE, seed=seed, mean=dataset.mean, std=dataset.std)


def test_loader(dataset):
    images, labels = dataset.test_images, dataset.test_labels
    return data.DataLoader(images, labels, 1000, shuffle=False, mean=dataset.mean, std=dataset.std)


def compare_seeds(dataset, seeds, epochs):
    from scipy.stats import mannwhitneyu

    ours, theirs = [], []
    progress = tqdm(range(seeds), disable=None)
    for seed in progress:
        ours.append(train_ministn(dataset, seed, epochs)[0])
        theirs.append(train_torch(dataset, seed, epochs))
        progress.write(f"seed {seed}: ministn {100 * ours[-1]:.2f} %, PyTorch {100 * theirs[-1]:.2f} %")
    first, again = (train_ministn(dataset, 0, epochs)[1] for _ in range(2))
    return {
        "ministn": ours,
        "torch": theirs,
        "median": [float(np.median(ours)), float(np.median(theirs))],
        "mann_whitney_p": float(mannwhitneyu(ours, theirs).pvalue),
        "same_seed_gives_same_bits": bool(np.array_equal(first, again)),
    }


def look_at_dips(dataset, seed, epochs, tries):
    ministn.manual_seed(seed)
    model = MnistSTN()
    loader = mnist_loader(dataset, seed)
    steps = epochs * len(loader)
    batches = itertools.islice(itertools.chain.from_iterable(iter(loader) for _ in itertools.count()), steps)
    optimizer = optim.SGD(model.parameters(), lr=LEARNING_RATE)
    model.train()
    for step, (images, labels) in enumerate(tqdm(batches, total=steps, desc="training", disable=None)):
        if step < steps - 1:
            ministn_step(model, optimizer, images, labels)
    state = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    ours, theirs = [], []
    for attempt in tqdm(range(tries), desc="last step", disable=None):
        model.load_state_dict(state)
        ministn.manual_seed(attempt)
        ministn_step(model.train(), optimizer, images, labels)
        ours.append(ministn_accuracy(model, dataset))
        twin = TorchSTN()
        twin.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
        torch.manual_seed(attempt)
        sgd = torch.optim.SGD(twin.parameters(), lr=LEARNING_RATE)
        torch_step(twin.train(), sgd, *to_torch(images, labels))
        theirs.append(torch_accuracy(twin, dataset))
    model.load_state_dict(state)
    twin.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    return {
        "images_in_last_batch": len(labels),
        "largest_gradient_error": max(compare_gradients(model, twin, images, labels).values()),
        "before": ministn_accuracy(model, dataset),
        "ministn": ours,
        "torch": theirs,
    }


def plot(folder):
    """A picture of the three results, as agreement.png in the folder."""
    from matplotlib.figure import Figure

    blue, vermilion, grey = "#0072B2", "#D55E00", "#7F7F7F"
    steps, seeds, dips = (json.loads((folder / f"agreement-{what}.json").read_text()) for what in RESULTS)
    figure = Figure(figsize=(11, 4), layout="constrained", dpi=120)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.6, 1, 1])
    styles = {"digits, float32": (vermilion, "-"), "digits with noise, float32": (vermilion, ":")}
    styles |= {"digits, float64": (blue, "-"), "digits with noise, float64": (blue, ":")}
    for name, (colour, style) in styles.items():
        losses = {who: np.array(values) for who, values in steps["losses"][name].items()}
        farthest = np.maximum.accumulate(np.abs(losses["ministn"] - losses["torch"]))
        left.plot(np.arange(1, 1 + len(farthest)), np.maximum(farthest, 1e-17), style, color=colour, label=name)
    floor = steps["losses"]["digits, float32"]
    itself = np.maximum.accumulate(np.abs(np.subtract(floor["torch channels_last"], floor["torch"])))
    itself = np.maximum(itself, 1e-17)
    left.plot(np.arange(1, 1 + len(itself)), itself, "--", color=grey, label="PyTorch from itself, digits, float32")
    left.set(xscale="log", yscale="log", xlabel="step", ylabel="largest difference of the losses so far")
    left.set_title("the same weights and batches")
    left.legend(fontsize="small")
    for axes, result, title in ((middle, seeds, "seeded runs"), (right, dips, "one step, many masks")):
        for column, (who, colour) in enumerate((("ministn", blue), ("torch", vermilion))):
            values = 100 * np.sort(result[who])
            axes.plot(column + np.linspace(-0.25, 0.25, len(values)), values, "o", ms=4, color=colour, alpha=0.7)
        axes.set(xticks=[0, 1], xticklabels=["ministn", "PyTorch"], xlim=(-0.6, 1.6), ylabel="test accuracy in %")
        axes.set_title(title)
    right.set_ylim(top=100)
    right.axhline(100 * dips["before"], color=grey, ls="--", lw=1)
    right.text(1.55, 100 * dips["before"] + 1.2, "before", ha="right", va="bottom", color=grey, fontsize="small")
    figure.savefig(folder / "agreement.png")
    print(folder / "agreement.png")


RESULTS = ("steps", "seeds", "dips")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*RESULTS, "plot"])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--tries", type=int, default=50, help="of the last step, for `dips`")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and batches of `steps` and `dips`")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("."), help="for the results")
    args = parser.parse_args(argv)
    if args.what == "plot":
        plot(args.folder)
        return
    ministn.set_num_threads(args.threads)
    torch.set_num_threads(args.threads)
    dataset = data.load("mnist", data_dir=args.data_dir)
    print(dataset.describe())
    with threadpool_limits(1, user_api="blas"):
        if args.what == "steps":
            result = all_steps(dataset, args.steps, args.seed)
        elif args.what == "seeds":
            result = compare_seeds(dataset, args.seeds, args.epochs)
        else:
            result = look_at_dips(dataset, args.seed, args.epochs, args.tries)
    print(json.dumps({key: value for key, value in result.items() if key != "losses"}, indent=2))
    setting = {
        "command": f"agreement.py {args.what}",
        "seed": args.seed,
        "threads": args.threads,
        "data": dataset.name,
        **records.environment(),
        "torch": torch.__version__,
    }
    records.write_atomically(
        args.folder / f"agreement-{args.what}.json",
        (json.dumps({"setting": setting, **result}, indent=1) + "\n").encode(),
    )


if __name__ == "__main__":
    main()
