"""Names and shapes of the tensors of Cosmos and Mochi models, of whose sizes a host takes some for granted."""

from tiny_shapes import DIM, layer, mlp

HEAD_DIM = 128
COSMOS_TEXT_WIDTH, MOCHI_TEXT_WIDTH = 1024, 256
LORA = 256  # width of the modulation's inner layer
MOCHI_TEXT_DIM, MOCHI_FFN, MOCHI_TEXT_FFN = 128, 8192, 512


def _weights(shapes: dict[str, tuple]) -> dict:
    """Shapes of layers without a bias, by their names."""
    return {f"{name}.weight": shape for name, shape in shapes.items()}


def _cosmos(modulation: str) -> dict:
    """Shapes of what stands before and after the blocks of both generations."""
    return _weights(
        {
            "x_embedder.proj.1": (DIM, 4 * (16 + 1)),
            "t_embedder.1.linear_1": (DIM, DIM),
            "t_embedder.1.linear_2": (3 * DIM, DIM),
            "final_layer.linear": (4 * 16, DIM),
            f"final_layer.{modulation}.1": (LORA, DIM),
            f"final_layer.{modulation}.2": (2 * DIM, LORA),
        }
    )


def cosmos1() -> dict:
    """Shapes of a Cosmos 1 text-to-video model."""
    shapes = _cosmos("adaLN_modulation") | _weights({"affline_norm": (DIM,)})
    shapes |= {f"extra_pos_embedder.pos_emb_{axis}": (size, DIM) for axis, size in {"t": 128, "h": 120, "w": 120}.items()}
    for block in (f"blocks.block{i}.blocks" for i in range(3)):
        for part, key_width in enumerate((DIM, COSMOS_TEXT_WIDTH)):
            attention = f"{block}.{part}.block.attn"
            shapes |= _weights({f"{attention}.to_{name}.0": (DIM, key_width) for name in "kv"})
            shapes |= _weights({f"{attention}.to_{name}.0": (DIM, DIM) for name in ("q", "out")})
            shapes |= _weights({f"{attention}.to_{name}.1": (HEAD_DIM,) for name in "qk"})
        shapes |= _weights({f"{block}.2.block.layer1": (4 * DIM, DIM), f"{block}.2.block.layer2": (DIM, 4 * DIM)})
        for part in range(3):
            modulation = f"{block}.{part}.adaLN_modulation"
            shapes |= _weights({f"{modulation}.1": (LORA, DIM), f"{modulation}.2": (3 * DIM, LORA)})
    return shapes


def cosmos_predict2() -> dict:
    """Shapes of a Cosmos Predict 2 model."""
    shapes = _cosmos("adaln_modulation") | _weights({"t_embedding_norm": (DIM,)})
    for block in (f"blocks.{i}" for i in range(3)):
        for attention, key_width in {"self_attn": DIM, "cross_attn": COSMOS_TEXT_WIDTH}.items():
            shapes |= _weights({f"{block}.{attention}.{name}_proj": (DIM, key_width) for name in "kv"})
            shapes |= _weights({f"{block}.{attention}.{name}_proj": (DIM, DIM) for name in ("q", "output")})
            shapes |= _weights({f"{block}.{attention}.{name}_norm": (HEAD_DIM,) for name in "qk"})
        shapes |= _weights({f"{block}.mlp.layer1": (4 * DIM, DIM), f"{block}.mlp.layer2": (DIM, 4 * DIM)})
        for modulation in (f"{block}.adaln_modulation_{part}" for part in ("self_attn", "cross_attn", "mlp")):
            shapes |= _weights({f"{modulation}.1": (LORA, DIM), f"{modulation}.2": (3 * DIM, LORA)})
    return shapes


def mochi() -> dict:
    """Shapes of a Mochi model, whose last block leaves the text alone; the video's MLP has a fixed width, so 30 MB."""
    shapes = (
        {"pos_frequencies": (3, DIM // HEAD_DIM, HEAD_DIM // 2)}
        | layer("x_embedder.proj", DIM, 12, 2, 2)
        | mlp("t_embedder.mlp", 256, DIM, DIM)
        | layer("t5_y_embedder.to_kv", 2 * MOCHI_TEXT_WIDTH, MOCHI_TEXT_WIDTH)
        | layer("t5_y_embedder.to_q", MOCHI_TEXT_WIDTH, MOCHI_TEXT_WIDTH)
        | layer("t5_y_embedder.to_out", DIM, MOCHI_TEXT_WIDTH)
        | layer("t5_yproj", MOCHI_TEXT_DIM, MOCHI_TEXT_WIDTH)
        | layer("final_layer.mod", 2 * DIM, DIM)
        | layer("final_layer.linear", 4 * 12, DIM)
    )
    for i, last in enumerate((False, True)):
        for stream, width, ffn in (("x", DIM, MOCHI_FFN), ("y", MOCHI_TEXT_DIM, MOCHI_TEXT_FFN)):
            attention, untouched = f"blocks.{i}.attn", last and stream == "y"
            shapes |= layer(f"blocks.{i}.mod_{stream}", (1 if untouched else 4) * width, DIM)
            shapes |= _weights({f"{attention}.qkv_{stream}": (3 * DIM, width)})
            shapes |= _weights({f"{attention}.{part}_norm_{stream}": (HEAD_DIM,) for part in "qk"})
            if not untouched:
                shapes |= layer(f"{attention}.proj_{stream}", width, DIM)
                shapes |= _weights(
                    {f"blocks.{i}.mlp_{stream}.w1": (2 * ffn, width), f"blocks.{i}.mlp_{stream}.w2": (width, ffn)}
                )
    return shapes
