"""Rounds of a plain loop: the same script as the worker process gets, one piece after the other."""

import heapq
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from time import perf_counter, sleep
from typing import Any, cast

import numpy as np

from perch.enginebench import proc
from perch.enginebench.figures import Answer, Round
from perch.enginebench.plain import Heard, PlainLoop, PullingLoop, said
from perch.enginebench.script import Cue, cues
from perch.inference.parakeet.model import Audio

_WARM_CUES = 3


@dataclass(slots=True)
class _Stage:
    """A round under way."""

    told: Round
    is_paced: bool
    until: float
    began: float = field(default_factory=perf_counter)

    @property
    def now(self) -> float:
        return perf_counter() - self.began

    def has(self, cue: Cue) -> bool:
        """Whether a piece belongs to this round."""
        return (cue.due if self.is_paced else self.now) < self.until

    def wait(self, cue: Cue) -> bool:
        """Until a piece is spoken; False if the round ended before the loop got to it."""
        if self.is_paced and (early := cue.due - self.now) > 0:
            sleep(early)
        return not self.is_paced or self.now < self.until

    def answered(self, cue: Cue, sent: float) -> None:
        due = cue.due if self.is_paced else sent
        self.told.answers.append(Answer(due, sent, self.now, cue.samples, cue.last))

    def missed(self, cue: Cue) -> None:
        self.told.answers.append(Answer(cue.due, self.until, self.until, 0, cue.last))


class PlainRounds:
    """Rounds of one loop over ``clips``."""

    def __init__(self, loop: PlainLoop, clips: Sequence[bytes], chunk: int) -> None:
        self._loop = loop
        self._audios = [
            np.frombuffer(pcm, dtype="<i2").astype(np.float32) / np.float32(32_768) for pcm in clips
        ]
        self._chunk = chunk

    def warm(self, streams: int) -> Round:
        """Let the library do what it does only once."""
        del streams
        length = min(_WARM_CUES * (self._chunk or len(self._audios[0])), len(self._audios[0]))
        began = perf_counter()
        self._loop.whole(self._audios[0][:length])
        return Round(1, perf_counter() - began)

    def live(self, streams: int, seconds: float) -> Round:
        """Every piece is taken when its last sample is spoken, or as soon as the loop gets to it."""
        return self._round(streams, seconds, is_paced=True)

    def flat_out(self, streams: int, seconds: float) -> Round:
        """Every stream in turn, without waiting, until ``seconds`` have passed."""
        return self._round(streams, seconds, is_paced=False)

    def offline(self, files: int) -> Round:
        """Whole utterances, one after the other."""
        stage, before = _Stage(Round(files, 0.0), is_paced=False, until=float("inf")), proc.cpu_s(os.getpid())
        for number in range(files):
            clip = number % len(self._audios)
            audio = self._audios[clip]
            sent = stage.now
            heard = self._loop.whole(audio)
            stage.answered(Cue(0.0, clip, 0, len(audio), last=True), sent)
            stage.told.said.append(said(clip, len(audio), heard))
        return _measured(stage, before)

    def _round(self, streams: int, seconds: float, *, is_paced: bool) -> Round:
        stage, before = _Stage(Round(streams, seconds), is_paced, seconds), proc.cpu_s(os.getpid())
        lengths = [len(audio) for audio in self._audios]
        scripts = [
            cues(lengths, chunk=self._chunk, stream=stream, streams=streams) for stream in range(streams)
        ]
        if self._loop.most == 1:
            self._pulled(stage, scripts[0])
        else:
            self._pushed(stage, scripts)
        return _measured(stage, before)

    def _pushed(self, stage: _Stage, scripts: Sequence[Iterator[Cue]]) -> None:
        open_now: list[Any] = [None] * len(scripts)
        named = [zip(script, repeat(stream)) for stream, script in enumerate(scripts)]
        for cue, stream in heapq.merge(*named, key=lambda one: one[0].due):
            if not stage.has(cue):
                return
            if not stage.wait(cue):
                stage.missed(cue)
                continue
            sent = stage.now
            if open_now[stream] is None:
                open_now[stream] = self._loop.open()
            self._loop.feed(open_now[stream], self._audio(cue))
            if cue.last:
                heard = self._loop.finish(open_now[stream])
                open_now[stream] = None
                stage.told.said.append(said(cue.clip, cue.end, heard))
            stage.answered(cue, sent)

    def _pulled(self, stage: _Stage, script: Iterator[Cue]) -> None:
        loop = cast("PullingLoop", self._loop)
        is_over = False
        while not is_over:
            utterance = _Utterance(stage, script, self._audios)
            utterance.end(loop.pull(utterance.pieces()))
            is_over = utterance.is_over

    def _audio(self, cue: Cue) -> Audio:
        return self._audios[cue.clip][cue.start : cue.end]


class _Utterance:
    """Pieces for a loop that asks for them: a piece is answered when the next is asked for."""

    def __init__(self, stage: _Stage, script: Iterator[Cue], audios: Sequence[Audio]) -> None:
        self._stage = stage
        self._script = script
        self._audios = audios
        self._open: tuple[Cue, float] | None = None
        self.is_over = False
        """The round is."""

    def pieces(self) -> Iterator[Audio]:
        for cue in self._script:
            self._close()
            if not self._stage.has(cue):
                self.is_over = True
                return
            if not self._stage.wait(cue):
                self._stage.missed(cue)
                continue
            self._open = cue, self._stage.now
            yield self._audios[cue.clip][cue.start : cue.end]
            if cue.last:
                return

    def end(self, heard: Heard) -> None:
        """The loop has said everything."""
        if self._open is not None and self._open[0].last:
            cue = self._open[0]
            self._stage.told.said.append(said(cue.clip, cue.end, heard))
        self._close()

    def _close(self) -> None:
        if self._open is not None:
            self._stage.answered(*self._open)
            self._open = None


def _measured(stage: _Stage, cpu_before: float) -> Round:
    told = stage.told
    told.seconds = max(told.seconds, stage.now)
    told.cpu_s = proc.cpu_s(os.getpid()) - cpu_before
    told.resident_mib = proc.resident_mib(os.getpid())
    return told
