"""Networks that say the same for less work where they are run as ONNX on a CPU, piece by piece.

As NeMo has it, a cache-aware encoder carries on what each layer's attention hears, and projects all of it
to keys and values again with every chunk: 77 frames at 560 ms, of which 7 are new. That is half of all its
arithmetic. Here the cache holds the keys and values themselves, so it is twice as wide. Positions, which
are the same for every chunk, are projected once for all.

Convolutions over one frame become the matrix products that they are: onnxruntime runs 8-bit convolutions
for one stream after the other, and products for all streams at once.
"""

from typing import Any


def make_frugal(torch: Any, encoder: Any) -> None:
    """Change ``encoder`` in place: it takes chunks as it is set up for, and caches of ``cache_width``, only."""
    streaming = encoder.streaming_cfg
    chunk = torch.zeros(1, streaming.valid_out_len, encoder.d_model)
    with torch.inference_mode():
        _, positions = encoder.pos_enc(x=chunk, cache_len=streaming.last_channel_cache_size)
    for layer in encoder.layers:
        _keep_keys_and_values(torch, layer.self_attn)
        layer.self_attn.linear_pos = _known(torch, layer.self_attn.linear_pos, positions)
    _widen(torch, encoder)


def use_products(torch: Any, network: Any) -> None:
    """Change every convolution over one frame in ``network``, in place."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Conv1d) and _is_product(child):
                setattr(module, name, _product(torch, child))


def cache_width(encoder: Any) -> int:
    """Numbers of each frame in ``cache_last_channel``."""
    return 2 * int(encoder.d_model)


def _keep_keys_and_values(torch: Any, attention: Any) -> None:
    """Have the cache hold projected frames: the keys, and after them the values."""

    def update_cache(key: Any, value: Any, query: Any, cache: Any) -> tuple[Any, Any, Any, Any]:
        new = torch.cat([attention.linear_k(key), attention.linear_v(value)], dim=-1)
        kept = query.shape[1] - attention.cache_drop_size
        seen = torch.cat([cache, new], dim=1)
        return seen, seen, query, torch.cat([cache[:, kept:], new[:, :kept]], dim=1)

    def forward_qkv(query: Any, key: Any, value: Any) -> tuple[Any, Any, Any]:
        width = attention.h * attention.d_k
        each = (attention.linear_q(query), key[..., :width], value[..., width:])
        q, k, v = (one.view(query.size(0), -1, attention.h, attention.d_k).transpose(1, 2) for one in each)
        return q, k, v

    attention.update_cache = update_cache
    attention.forward_qkv = forward_qkv


def _known(torch: Any, projection: Any, positions: Any) -> Any:
    """A projection of which the only input there will be is known."""
    with torch.no_grad():
        projected = projection(positions.clone())

    class Known(torch.nn.Module):  # type: ignore[misc]  # torch is Any
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("projected", projected)

        def forward(self, positions: Any) -> Any:
            del positions
            return self.projected

    return Known()


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


def _widen(torch: Any, encoder: Any) -> None:
    start = encoder.get_initial_cache_state

    def get_initial_cache_state(*arguments: Any, **named: Any) -> tuple[Any, Any, Any]:
        channel, time, length = start(*arguments, **named)
        return torch.cat([channel, channel], dim=-1), time, length

    encoder.get_initial_cache_state = get_initial_cache_state
