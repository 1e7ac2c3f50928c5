"""Greedy transducer decoding of many streams at once.

After "Label-Looping: Highly Efficient Decoding for Transducers" (Bataev et al., 2024): the prediction
network runs once for each token of the stream that has most of them, not once for each frame of each
stream. The joint network is evaluated for a window of frames ahead, in which everything up to the next
token is skipped at once; no loop here is over streams.
"""

import copy
from dataclasses import dataclass
from typing import Any

Tensor = Any

WINDOW = 16
"""Frames that the joint network looks ahead: few enough to be cheap, and more than most tokens apart."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """A token of one stream: its id, the frame of this call, how many frames it lasts, its probability."""

    id: int
    frame: int
    frames: int
    probability: float


@dataclass(slots=True)
class Decoder:
    """The state of ``B`` streams between calls, on the model's device.

    ``hidden`` and ``cell`` have shape (layers, B, width), ``predicted`` (B, width), ``symbols`` (tokens
    already said at the frame that is next) and ``skip`` (frames that the last duration reaches into the
    next call) shape (B,).
    """

    hidden: Tensor
    cell: Tensor
    predicted: Tensor
    symbols: Tensor
    skip: Tensor

    def of(self, rows: Tensor) -> "Decoder":
        """A copy of the streams at ``rows``, in that order."""
        hidden, cell = self.hidden[:, rows], self.cell[:, rows]
        return Decoder(hidden, cell, self.predicted[rows], self.symbols[rows], self.skip[rows])

    def keep(self, rows: Tensor, states: "Decoder") -> None:
        """Take ``states``, one for each of ``rows``, in place."""
        self.hidden[:, rows], self.cell[:, rows] = states.hidden, states.cell
        self.predicted[rows], self.symbols[rows] = states.predicted, states.symbols
        self.skip[rows] = states.skip


class Transducer:
    """Decodes with the prediction and joint network of a model from transformers.

    Args:
        torch: The module.
        model: ``ParakeetForRNNT``, ``ParakeetForTDT`` or ``NemotronAsrStreamingForRNNT``.
    """

    def __init__(self, torch: Any, model: Any) -> None:
        config = model.config
        self._torch = torch
        self._network = model.decoder
        self._joint = model.joint
        self._blank = config.blank_token_id
        self._vocabulary = config.vocab_size
        self._most_symbols = config.max_symbols_per_step
        self._layers = config.num_decoder_layers
        self._width = config.decoder_hidden_size
        self._device = model.device
        self._dtype = model.dtype
        self._head = _in_float32(torch, model.joint.head)
        durations = getattr(config, "durations", None)
        self._durations = None if durations is None else torch.tensor(list(durations), device=model.device)
        self._longest_jump = max(durations) if durations else 1

    def start(self, streams: int) -> Decoder:
        """The state of ``streams`` streams that have said nothing."""
        torch = self._torch
        shape = (self._layers, streams, self._width)
        zeros = torch.zeros(shape, device=self._device, dtype=self._dtype)
        count = torch.zeros(streams, device=self._device, dtype=torch.long)
        begin = torch.full((streams,), self._blank, device=self._device, dtype=torch.long)
        predicted, hidden, cell = self._predict(begin, zeros, zeros)
        return Decoder(hidden, cell, predicted, count, count.clone())

    def decode(self, frames: Tensor, lengths: Tensor, state: Decoder) -> tuple[list[list[Emitted]], Decoder]:
        """The tokens of further frames.

        Args:
            frames: The encoder's output projected for the joint network, shape (B, T, width).
            lengths: How many of them are valid, shape (B,).
            state: Of the same streams; it is not changed.
        """
        torch = self._torch
        at, symbols = state.skip.clone(), state.symbols.clone()
        hidden, cell, predicted = state.hidden, state.cell, state.predicted
        ahead = torch.arange(min(WINDOW, frames.shape[1]), device=frames.device)
        said: list[tuple[Tensor, ...]] = []
        while bool((at < lengths).any()):
            places = (at[:, None] + ahead).clamp(max=frames.shape[1] - 1)
            window = frames.gather(1, places[:, :, None].expand(-1, -1, frames.shape[2]))
            logits = self._head(self._joint.activation(window + predicted[:, None]).float())
            labels = logits[..., : self._vocabulary].argmax(-1)
            steps = self._steps(logits)
            found = self._next_token(labels, steps, (lengths - at).clamp(min=0))
            here = at + found
            emits = (found < len(ahead)) & (here < lengths)
            index = found.clamp(max=len(ahead) - 1)[:, None]
            token = labels.gather(1, index)[:, 0]
            spoken = logits.gather(1, index[:, :, None].expand(-1, -1, logits.shape[2]))[:, 0]
            chance = spoken[:, : self._vocabulary].softmax(-1).gather(1, token[:, None])[:, 0]
            step = torch.where(emits, steps.gather(1, index)[:, 0], torch.zeros_like(at))
            said.append((emits, token, here, step, chance))
            symbols = torch.where(found > 0, torch.zeros_like(symbols), symbols)
            symbols = torch.where(emits, symbols + 1, symbols)
            stuck = emits & (step == 0) & (symbols >= self._most_symbols)
            symbols = torch.where(stuck | (step > 0), torch.zeros_like(symbols), symbols)
            at = torch.where(emits, here + step + stuck.long(), torch.maximum(here, at))
            told, new_hidden, new_cell = self._predict(token, hidden, cell)
            predicted = torch.where(emits[:, None], told, predicted)
            hidden = torch.where(emits[None, :, None], new_hidden, hidden)
            cell = torch.where(emits[None, :, None], new_cell, cell)
        skip = (at - lengths).clamp(min=0)
        return _collected(torch, said, len(lengths)), Decoder(hidden, cell, predicted, symbols, skip)

    def _steps(self, logits: Tensor) -> Tensor:
        """Frames that each label would last, shape (B, W); an RNN-T's tokens none, its blanks one."""
        if self._durations is None:
            return self._torch.zeros_like(logits[..., 0], dtype=self._torch.long)
        return self._durations[logits[..., self._vocabulary :].argmax(-1)]

    def _next_token(self, labels: Tensor, steps: Tensor, left: Tensor) -> Tensor:
        """The frame of the window at which each stream's next token is; past its end if there is none.

        Of the window, only ``left`` frames are the stream's: it stays where they end, or as far behind as a
        TDT model's last blank jumps.
        """
        torch = self._torch
        is_blank = labels == self._blank
        width = labels.shape[1]
        places = torch.arange(width, device=labels.device)
        if self._durations is None:
            return torch.minimum(torch.where(is_blank, width, places).min(1).values, left)
        # Where each frame's blank jumps to; a token, and what is past the end, stays. Each round doubles the jumps.
        leads = torch.arange(width + self._longest_jump, device=labels.device).repeat(len(labels), 1)
        moves = is_blank & (places < left[:, None])
        leads[:, :width] += torch.where(moves, steps.clamp(min=1), torch.zeros_like(steps))
        for _ in range((width - 1).bit_length()):
            leads = leads.gather(1, leads)
        return leads[:, 0]

    def _predict(self, token: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        embedded = self._network.embedding(token)[:, None]
        out, (hidden, cell) = self._network.lstm(embedded, (hidden, cell))
        return self._network.decoder_projector(out)[:, 0], hidden, cell


def _collected(torch: Any, said: list[tuple[Tensor, ...]], streams: int) -> list[list[Emitted]]:
    """What was said, by stream: brought over from the device in one go."""
    emitted: list[list[Emitted]] = [[] for _ in range(streams)]
    if not said:
        return emitted
    columns = [torch.stack(column).double() for column in zip(*said, strict=True)]
    for row in torch.stack(columns, 2).tolist():
        for stream, (emits, token, frame, step, chance) in enumerate(row):
            if emits:
                emitted[stream].append(Emitted(int(token), int(frame), max(1, int(step)), chance))
    return emitted


def _in_float32(torch: Any, head: Any) -> Any:
    """The joint network's last layer for a close choice between tokens: 16 bits leave steps of an eighth there."""
    return head if next(head.parameters()).dtype == torch.float32 else copy.deepcopy(head).float()


def ctc(logits: Tensor, lengths: Tensor, blank: int, before: list[int]) -> list[list[Emitted]]:
    """Tokens of CTC logits of shape (B, T, vocabulary): repeats merged, blanks left out.

    Args:
        logits: For each frame.
        lengths: How many frames are valid, shape (B,).
        blank: The id that says nothing.
        before: The id of each stream's frame before the first, ``blank`` at its start.
    """
    best = logits.float().softmax(-1).max(-1)
    chances, labels, counts = best.values.tolist(), best.indices.tolist(), lengths.tolist()
    emitted: list[list[Emitted]] = []
    for stream, last in enumerate(before):
        tokens: list[Emitted] = []
        for frame in range(counts[stream]):
            label = labels[stream][frame]
            if label not in (blank, last):
                tokens.append(Emitted(label, frame, 1, chances[stream][frame]))
            last = label  # noqa: PLW2901 it is the frame before the next
        emitted.append(tokens)
    return emitted
