"""The state of all streams of a cache-aware model, a row for each slot, made once.

The classes here stand where transformers expects its own caches; they are what lets streams at different
points of their utterances share a forward pass.
"""

from collections.abc import Sequence
from typing import Any

from perch.inference.parakeet.greedy import Transducer

Tensor = Any


class Rows:
    """The slots of one batch.

    Args:
        torch: The module.
        slots: Their numbers.
        device: The model's.
        first: Their utterances begin, so whatever is in the rows is old.
        limits: For each, how many of its new frames are real at each level of subsampling; None if all
            are. The rest fills up the end of an utterance.
    """

    def __init__(
        self,
        torch: Any,
        slots: Sequence[int],
        device: Any,
        *,
        first: bool,
        limits: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.index = torch.tensor(list(slots), device=device, dtype=torch.long)
        self.first = first
        self.limits = None if limits is None else torch.tensor(limits, device=device)

    def __len__(self) -> int:
        return len(self.index)


class SlotStore:
    """Keys and values, convolution tails and decoder states of ``slots`` streams."""

    def __init__(self, torch: Any, network: Any, transducer: Transducer, *, slots: int) -> None:
        encoder = network.encoder.config
        self.torch = torch
        self.slots = slots
        self.context = encoder.sliding_window - 1
        """Encoder frames that attention looks back."""
        self._like = {"device": network.device, "dtype": network.dtype}
        heads = encoder.num_attention_heads
        width = getattr(encoder, "head_dim", None) or encoder.hidden_size // heads
        shape = (slots, heads, self.context, width)
        self.keys = [self.zeros(shape) for _ in range(encoder.num_hidden_layers)]
        self.values = [self.zeros(shape) for _ in range(encoder.num_hidden_layers)]
        self.tails: dict[str, Tensor] = {}
        self.decoder = transducer.start(slots)

    def zeros(self, shape: Sequence[int]) -> Tensor:
        return self.torch.zeros(tuple(shape), **self._like)

    def paddings(self, rows: Rows) -> "Paddings":
        return Paddings(self, rows)


class KeysAndValues:
    """Attention's cache for one forward pass: what is remembered in front, the newest kept for later."""

    def __init__(self, store: SlotStore, rows: Rows) -> None:
        self._store = store
        self._rows = rows
        self._new: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        keys = self._joined(self._store.keys[layer], keys)
        values = self._joined(self._store.values[layer], values)
        context = self._store.context
        self._new[layer] = (keys[:, :, -context:], values[:, :, -context:])
        return keys, values

    def commit(self) -> None:
        """Write the rows back."""
        for layer, (keys, values) in self._new.items():
            self._store.keys[layer][self._rows.index] = keys
            self._store.values[layer][self._rows.index] = values

    def _joined(self, held: Tensor, new: Tensor) -> Tensor:
        past = (
            new.new_zeros((len(self._rows), *held.shape[1:])) if self._rows.first else held[self._rows.index]
        )
        return self._store.torch.cat([past, new], 2)


class Paddings:
    """The tails that causal convolutions look back at, for one forward pass."""

    def __init__(self, store: SlotStore, rows: Rows) -> None:
        self._store = store
        self._rows = rows
        self._new: dict[str, Tensor] = {}

    def update(self, hidden: Tensor, key: str, convolution: Any) -> Tensor:
        """``hidden`` with what came before it in front; time is dimension 2."""
        tail = convolution.left_pad
        hidden = self._without_filling(hidden, key)
        lead = getattr(convolution, "left_pad_init", tail) if self._rows.first else tail
        if self._rows.first:
            shape = list(hidden.shape)
            shape[2] = lead
            joined = self._store.torch.cat([hidden.new_zeros(shape), hidden], 2)
        else:
            joined = self._store.torch.cat([self._store.tails[key][self._rows.index], hidden], 2)
        if tail:
            self._new[key] = joined[:, :, -tail:]
        elif key not in self._store.tails:
            self._new[key] = joined[:, :, :0]
        return joined

    def _without_filling(self, hidden: Tensor, key: str) -> Tensor:
        """``hidden`` with zeros where there is no audio, as the model was trained with."""
        stage, _, level = key.partition(".")
        if stage != "subsampling" or self._rows.limits is None:
            return hidden
        time = self._store.torch.arange(hidden.shape[2], device=hidden.device)
        is_real = time[None] < self._rows.limits[:, int(level)][:, None]
        return hidden * is_real[:, None, :, None]

    def commit(self) -> None:
        """Write the rows back."""
        for key, tail in self._new.items():
            if key not in self._store.tails:
                self._store.tails[key] = self._store.zeros((self._store.slots, *tail.shape[1:]))
            self._store.tails[key][self._rows.index] = tail
