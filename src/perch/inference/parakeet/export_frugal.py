"""Networks that say the same for less work where they are run as ONNX on a CPU, piece by piece.

As NeMo has it, a cache-aware encoder carries on what each layer's attention hears, and projects all of it
to keys and values again with every chunk: 77 frames at 560 ms, of which 7 are new. That is half of all its
arithmetic. Here the cache holds the keys and values themselves, so it is twice as large.

What is left is moving memory: 14 MB of cache for each stream and chunk. So the cache lies as attention
wants it, head by head, each layer looks at its part where it lies, and new frames are put behind it once,
for all layers together.

Windows are always full, so there is nothing to mask in them; positions, which are the same for every
chunk, are projected once for all.

Convolutions become the matrix products that they are: onnxruntime runs 8-bit convolutions for one stream
after the other, and those of single channels slowly; products run for all streams at once.
"""

from typing import Any


def make_frugal(torch: Any, encoder: Any) -> None:
    """Change ``encoder`` in place: its ``forward_for_export`` takes full windows and caches of ``cache_shape``."""
    streaming = encoder.streaming_cfg
    frames, seen = int(streaming.valid_out_len), int(streaming.last_channel_cache_size)
    with torch.inference_mode():
        _, positions = encoder.pos_enc(x=torch.zeros(1, frames, encoder.d_model), cache_len=seen)
    for layer in encoder.layers:
        _attend_in_place(torch, layer.self_attn, positions, frames, seen)
        layer.conv.depthwise_conv = _sliding_product(torch, layer.conv.depthwise_conv, frames)
    encoder.pre_encode.conv = _without_masks(torch, encoder.pre_encode.conv)
    encoder.__class__ = _frugal_class(torch, type(encoder))


def use_products(torch: Any, network: Any) -> None:
    """Change every convolution over one frame in ``network``, in place."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Conv1d) and _is_product(child):
                setattr(module, name, _product(torch, child))


def cache_shape(encoder: Any) -> tuple[int, int, int]:
    """Of one stream's keys and values.

    Heads, of each layer those of its keys and then of its values; the frames they are of; the width of a head.
    """
    attention = encoder.layers[0].self_attn
    frames = int(encoder.streaming_cfg.last_channel_cache_size)
    return 2 * len(encoder.layers) * attention.h, frames, attention.d_k


def _frugal_class(torch: Any, kind: Any) -> Any:
    """A class of encoders whose layers are given keys and values, and give the new ones."""

    class FrugalEncoder(kind):  # type: ignore[misc]  # NeMo is Any
        def forward_for_export(
            self,
            audio_signal: Any,
            length: Any,
            cache_last_channel: Any,
            cache_last_time: Any,
            cache_last_channel_len: Any,
        ) -> tuple[Any, Any, Any, Any, Any]:
            heads = self.layers[0].self_attn.h
            layers = cache_last_channel.unflatten(1, (-1, heads))
            encoded, length, new, time, known = self.forward_internal(
                audio_signal,
                length,
                cache_last_channel=[(layers[:, n], layers[:, n + 1]) for n in range(0, layers.shape[1], 2)],
                cache_last_time=cache_last_time.transpose(0, 1),
                cache_last_channel_len=cache_last_channel_len,
            )
            new = new.transpose(0, 1).flatten(1, 3)
            kept = torch.cat([cache_last_channel[:, :, new.shape[2] :], new], dim=2)
            most = self.streaming_cfg.valid_out_len
            return encoded[:, :, :most], torch.clamp(length, max=most), kept, time.transpose(0, 1), known

        def get_initial_cache_state(self, *arguments: Any, **named: Any) -> tuple[Any, Any, Any]:
            channel, time, length = super().get_initial_cache_state(*arguments, **named)
            rows, frames, width = cache_shape(self)
            return channel.new_zeros(rows, channel.shape[1], frames, width), time, length

    return FrugalEncoder


def _attend_in_place(torch: Any, attention: Any, positions: Any, frames: int, seen: int) -> None:
    """Have ``attention`` take keys and values as its cache, and return those of the new frames."""
    heads, width = attention.h, attention.d_k
    # A query ``i`` frames into the chunk is ``seen + i - j`` frames after the key ``j``: row ``j + frames - 1 - i``.
    reach = seen + 2 * frames - 1
    with torch.no_grad():
        known = attention.linear_pos(positions[:, :reach].clone()).view(1, reach, heads, width)
        attention.register_buffer("known_positions", known.permute(0, 2, 3, 1).contiguous())
    attention.linear_pos = None

    def by_head(projected: Any) -> Any:
        return projected.view(-1, frames, heads, width).transpose(1, 2)

    def distances(query: Any) -> Any:
        """For each query, its product with the position of each key, shape ``(…, frames, seen + frames)``."""
        products = (query @ attention.known_positions).flatten(2)
        first = frames - 1  # each row begins one place before the one above it
        shifted = products[:, :, first : first + frames * (reach - 1)]
        return shifted.view(-1, heads, frames, reach - 1)[..., : seen + frames]

    def forward(query: Any, key: Any, value: Any, *, mask: Any, cache: Any, **_: Any) -> tuple[Any, Any]:
        keys, values = cache
        queries = by_head(attention.linear_q(query)) / attention.s_d_k
        new_keys, new_values = by_head(attention.linear_k(key)), by_head(attention.linear_v(value))
        content = queries + (attention.pos_bias_u / attention.s_d_k).unsqueeze(1)
        scores = torch.cat([content @ keys.transpose(-2, -1), content @ new_keys.transpose(-2, -1)], dim=-1)
        scores = scores + distances(queries + (attention.pos_bias_v / attention.s_d_k).unsqueeze(1))
        weights = torch.softmax(scores.masked_fill(mask.unsqueeze(1), -10_000.0), dim=-1)
        heard = weights[..., :seen] @ values + weights[..., seen:] @ new_values
        heard = attention.linear_out(heard.transpose(1, 2).flatten(2))
        kept = frames - attention.cache_drop_size
        return heard, torch.stack([new_keys, new_values], dim=1)[:, :, :, :kept]

    attention.forward = forward


def _sliding_product(torch: Any, convolution: Any, frames: int) -> Any:
    """A causal convolution of single channels over ``frames``, as one matrix for each channel."""
    taps = convolution.kernel_size[0]
    matrices = torch.zeros(convolution.in_channels, frames + taps - 1, frames)
    for frame in range(frames):
        matrices[:, frame : frame + taps, frame] = convolution.weight.detach()[:, 0]

    class SlidingProduct(torch.nn.Module):  # type: ignore[misc]  # torch is Any
        def __init__(self) -> None:
            super().__init__()
            self.cache_drop_size = convolution.cache_drop_size
            self.register_buffer("matrices", matrices)
            self.register_buffer("bias", None if convolution.bias is None else convolution.bias.detach())

        def forward(self, new: Any, cache: Any) -> tuple[Any, Any]:
            both = torch.cat([cache, new], dim=-1)
            made = (both.transpose(0, 1) @ self.matrices).transpose(0, 1)
            if self.bias is not None:
                made = made + self.bias.unsqueeze(-1)
            kept = both.shape[-1] - self.cache_drop_size
            return made, both[:, :, kept - (taps - 1) : kept]

    return SlidingProduct()


def _without_masks(torch: Any, convolutions: Any) -> Any:
    """The same layers over windows that are full, so that no frame of them has to be silenced."""

    class Unmasked(torch.nn.Module):  # type: ignore[misc]  # torch is Any
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(*convolutions)

        def forward(self, window: Any, lengths: Any) -> tuple[Any, Any]:
            made = self.layers(window.unsqueeze(1))
            return made, torch.zeros_like(lengths) + made.shape[2]

    return Unmasked()


def _is_product(convolution: Any) -> bool:
    return bool(
        convolution.kernel_size == (1,)
        and convolution.stride == (1,)
        and convolution.padding == (0,)
        and convolution.groups == 1
    )


def _product(torch: Any, convolution: Any) -> Any:
    linear = torch.nn.Linear(convolution.in_channels, convolution.out_channels, convolution.bias is not None)
    linear.weight = torch.nn.Parameter(convolution.weight.squeeze(-1))
    linear.bias = convolution.bias

    class Product(torch.nn.Module):  # type: ignore[misc]  # torch is Any
        def __init__(self) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, frames: Any) -> Any:
            return self.linear(frames.transpose(1, 2)).transpose(1, 2)

    return Product()
