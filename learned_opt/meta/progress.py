"""What meta-training shows while it runs."""

import sys
from typing import Any, NamedTuple

import numpy as np
import tqdm

from learned_opt import devices


class Progress(NamedTuple):
    """What a callback of `meta_train` sees after an epoch.

    Attributes:
      entry: the epoch's entry of the history, see `MetaTrainResult`.
      phi: the newest weights.
      best_phi: the best weights so far.
    """

    entry: dict
    phi: Any
    best_phi: Any


class Bar:
    """Windows done, time left, the loss that is minimized, and the best validation loss.

    On a terminal it redraws twice a second. Elsewhere, in a log file, it prints every ten seconds.
    Of several processes the first shows it.

    Args:
      total: windows in all, at most.
      shown: True, False, or a text to show beside the losses.
    """

    def __init__(self, total: int, shown: bool | str) -> None:
        on_terminal = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=total,
            desc="meta-training",
            unit="window",
            disable=not shown or not devices.is_first(),
            mininterval=0.5 if on_terminal else 10,
            dynamic_ncols=on_terminal,
        )
        self._note = shown if isinstance(shown, str) else None
        self._validation: float | None = None
        self._meta_loss: float | None = None

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def start_stage(
        self,
        name: str,
        windows_done: int,
        history: list,
    ) -> None:
        """Begins at the window where the stage's checkpoint stands."""
        title = "learning-rate search" if name.startswith("search") else "meta-training"
        self._bar.set_description(title, refresh=False)
        self._validation = None
        for entry in history:
            self._note_validation(entry)
        if self._bar.disable:
            return
        self._bar.initial += windows_done  # resumed work does not count in the time left
        self._bar.n += windows_done

    def end_stage(self, windows_left: int) -> None:
        """Early stopping shortens the total."""
        if not self._bar.disable:
            self._bar.total -= windows_left
            self._bar.refresh()

    def advance(self, state: Any, windows: int) -> None:
        """Some windows are done."""
        count = np.maximum(np.asarray(state.sums.count), 1)
        self._meta_loss = float(np.min(np.asarray(state.sums.loss) / count))
        self._bar.set_postfix_str(self._describe(int(np.min(state.skipped))), refresh=False)
        self._bar.update(windows)

    def show_epoch(self, entry: dict) -> None:
        """A validation is done."""
        self._note_validation(entry)
        self._bar.set_postfix_str(self._describe(int(np.min(entry["skipped"]))), refresh=False)

    def _note_validation(self, entry: dict) -> None:
        loss = float(np.min(entry["validation_loss"]))
        self._validation = loss if self._validation is None else min(loss, self._validation)

    def _describe(self, skipped: int) -> str:
        parts = []
        if self._meta_loss is not None:
            parts.append(f"meta-loss {self._meta_loss:.3g}")
        if self._validation is not None:
            parts.append(f"validation {self._validation:.3g}")
        if self._note:
            parts.append(self._note)
        if skipped:
            parts.append(f"{skipped} non-finite skipped")
        return ", ".join(parts)
