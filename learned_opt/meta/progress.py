"""The progress bar of meta-training."""

import sys

import numpy as np
import tqdm


class Bar:
    """Episodes done, time left, the loss that is minimised, the best validation loss, and the baseline to be beaten.

    On a terminal it redraws twice a second, elsewhere (a log file) it prints every ten seconds.
    """

    def __init__(self, total_episodes, shown, reference, loss_name="meta-loss"):
        interval = 0.5 if sys.stderr.isatty() else 10
        self._bar = tqdm.tqdm(
            total=total_episodes,
            desc="meta-training",
            unit="episode",
            disable=not shown,
            mininterval=interval,
            dynamic_ncols=sys.stderr.isatty(),
        )
        self._reference = (
            f"best baseline {reference[1]:.3g} ({reference[0]})" if reference else None
        )
        self._validation = None
        self._meta_loss = None
        self._loss_name = loss_name

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._bar.close()

    def start_stage(self, name, episodes_done, history):
        """Begins at the episode where the stage's checkpoint stands."""
        self._bar.set_description(
            "learning-rate search" if name == "search" else "meta-training", refresh=False
        )
        self._validation = None
        for entry in history:
            self.show_epoch(entry, postfix=False)
        if self._bar.disable:
            return
        self._bar.initial += (
            episodes_done  # resumed work does not count in the estimate of the time left
        )
        self._bar.n += episodes_done

    def end_stage(self, episodes_left):
        """Early stopping shortens the total."""
        if not self._bar.disable:
            self._bar.total -= episodes_left
            self._bar.refresh()

    def advance(self, state):
        """One episode is done."""
        count = np.maximum(np.asarray(state.loss_count), 1)
        self._meta_loss = float(np.min(np.asarray(state.loss_sum) / count))
        skipped = int(np.min(state.skipped))
        self._bar.set_postfix_str(self._describe(skipped), refresh=False)
        self._bar.update()

    def show_epoch(self, entry, postfix=True):
        """A validation is done."""
        loss = float(np.min(entry["validation_loss"]))
        self._validation = loss if self._validation is None else min(loss, self._validation)
        if postfix:
            self._bar.set_postfix_str(self._describe(int(np.min(entry["skipped"]))), refresh=False)

    def _describe(self, skipped):
        parts = [f"{self._loss_name} {self._meta_loss:.3g}"] if self._meta_loss is not None else []
        if self._validation is not None:
            parts.append(f"validation {self._validation:.3g}")
        if self._reference:
            parts.append(self._reference)
        if skipped:
            parts.append(f"{skipped} non-finite skipped")
        return ", ".join(parts)
