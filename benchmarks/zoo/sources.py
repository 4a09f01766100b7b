"""From a line of the catalogue to a module and the inputs that it is exported with."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from . import catalogue

Dynamic = dict[str, dict[int, str]]


@dataclass
class Case:
    """A module and how to export it; `write` replaces PyTorch's exporters where it is given."""

    module: Any = None
    inputs: tuple[Any, ...] = ()
    names: list[str] = field(default_factory=list)
    dynamic: Dynamic = field(default_factory=dict)
    write: Callable[[str], None] | None = None


@dataclass(frozen=True)
class Entry:
    """One model of the zoo."""

    source: str
    model: str
    build: Callable[[], Case]
    #: Packages without which it is skipped.
    needs: tuple[str, ...] = ("torch",)
    #: What the catalogue says of it: an export of a line that has changed since is made anew.
    given: str = ""

    @property
    def name(self) -> str:
        return f"{self.source}-{self.model}"

    @property
    def missing(self) -> list[str]:
        """The packages that it needs and that are not there."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def entries() -> Iterator[Entry]:
    """The whole catalogue."""
    for model, given in catalogue.TIMM.items():
        build = _later(timm, model, given)
        yield Entry("timm", model, build, ("torch", "timm"), repr(given))
    for model, given in catalogue.TORCHVISION.items():
        build = _later(torchvision, model, given)
        yield Entry("torchvision", model, build, ("torch", "torchvision"), repr(given))
    for task, models in catalogue.TRANSFORMERS.items():
        suffix = {"SemanticSegmentation": "-segmentation"}.get(task, "")
        for model, given in models.items():
            build = _later(transformers, task, model, given)
            needs = ("torch", "transformers")
            yield Entry("transformers", model + suffix, build, needs, repr(given))
    for model in catalogue.OWN:
        yield Entry("own", model, _later(own, model))
    for model in catalogue.ULTRALYTICS:
        yield Entry("ultralytics", model, _later(ultralytics, model), ("torch", "ultralytics"))
    for model in catalogue.DIFFUSERS:
        yield Entry("diffusers", model, _later(diffusers, model), ("torch", "diffusers"))
    for model in catalogue.SKLEARN:
        yield Entry("sklearn", model, _later(sklearn, model), ("sklearn", "skl2onnx"))
    for model in catalogue.JAX:
        yield Entry("jax", model, _later(jax, model), ("jax", "flax", "jax2onnx"))


def _later(build: Callable[..., Case], *given: Any) -> Callable[[], Case]:
    return lambda: build(*given)


def randomise(module: Any) -> Any:
    """Give every parameter and statistic a value that matters, and switch to evaluation.

    Heads that start at zero, layer scales of 1e-6 and statistics of 0 and 1 would make outputs that
    hardly depend on the weights: no check could fail.
    """
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not parameter.is_floating_point() or parameter.ndim == 0:
                continue
            if parameter.ndim == 1:
                parameter.normal_(0.0 if name.endswith("bias") else 1.0, 0.1)
            elif float(parameter.abs().max()) < 1e-3:
                parameter.normal_(0, 0.05)
            elif (
                parameter.numel() > 1 and float(parameter.std()) < 1e-3
            ):  # a scale for each channel
                parameter.normal_(1, 0.1)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return module.eval()


def calibrate(module: Any, inputs: tuple[Any, ...]) -> None:
    """Give batch normalisation statistics of about the size of what flows through it.

    With others, signals of a deep network grow from layer to layer until all is rounding: what it
    puts out then changes with the order of a sum, and nothing can be read off it.
    """
    import torch

    def measure(norm: Any, given: tuple[Any, ...]) -> None:
        # Of all its channels: what single ones have on one small input says little of others.
        power = given[0].square().mean().clamp(min=1e-4)
        norm.running_mean.normal_().mul_(0.1 * power.sqrt())
        norm.running_var.uniform_(0.5, 1.5).mul_(power)

    kinds = torch.nn.modules.batchnorm._BatchNorm
    norms = [each for each in module.modules() if isinstance(each, kinds)]
    # Before each one is used: those behind it then see what they will see.
    hooks = [
        each.register_forward_pre_hook(measure) for each in norms if each.running_var is not None
    ]
    with torch.no_grad():
        if hooks:
            module(*inputs)
    for hook in hooks:
        hook.remove()


def _images(module: Any, size: Any, frames: int = 0, channels: int = 3) -> Case:
    import torch

    sides = (size, size) if isinstance(size, int) else tuple(size)
    shape = (2, channels, frames, *sides) if frames else (2, channels, *sides)
    return Case(randomise(module), (torch.randn(shape),), ["images"], {"images": {0: "n"}})


# -- libraries of architectures ------------------------------------------------------------------


def timm(model: str, given: dict[str, Any]) -> Case:
    import timm

    given = dict(given)
    size = given.pop("size", None)
    timm.layers.set_fused_attn(given.pop("fused", True))
    name = model.removesuffix("-full")
    # Many of timm's functions set depths and widths themselves and take no others; the one that
    # they all end in does.
    family: Any = importlib.import_module(timm.model_entrypoint(name).__module__)
    build = family.build_model_with_cfg
    family.build_model_with_cfg = lambda *args, **named: build(*args, **{**named, **given})
    try:
        module = timm.create_model(name, num_classes=10)
    finally:
        family.build_model_with_cfg = build
    config = module.default_cfg
    if size is None:
        fixed = config.get("fixed_input_size", False) or model.endswith("-full")
        size = config.get("input_size", (3, 224, 224))[1:] if fixed else 96
    return _images(module, size)


def torchvision(model: str, given: dict[str, Any]) -> Case:
    import torchvision

    given = dict(given)
    size, frames = given.pop("size", 96), given.pop("frames", 0)
    model = model.removesuffix("-full")
    kinds = torchvision.models
    if "of" in given:
        made = getattr(kinds, given.pop("of"))
        return _images(Reading(made(num_classes=10, **given)), size)
    if "weights_backbone" in inspect.signature(kinds.get_model_builder(model)).parameters:
        given["weights_backbone"] = None
    module = kinds.get_model(model, weights=None, num_classes=10, **given)
    detector = model in kinds.list_models(module=kinds.detection)
    if detector:
        import torch

        images = torch.rand(3, size, size)
        return Case(Reading(randomise(module), "detections"), (images,), ["image"], {})
    return _images(Reading(module), size, frames)


def _reading() -> Any:
    import torch

    class Reading(torch.nn.Module):
        """A model of which only the results that are tensors come out."""

        def __init__(self, module: Any, form: str = "", names: tuple[str, ...] = ()) -> None:
            super().__init__()
            self.module = module
            self.form = form
            self.names = names

        def forward(self, *inputs: Any) -> Any:
            if self.form == "detections":
                found = self.module([inputs[0]])
                return tuple(found[0].values())
            if self.names:
                found = self.module(**dict(zip(self.names, inputs, strict=True)))
            else:
                found = self.module(*inputs)
            if hasattr(found, "to_tuple"):
                found = found.to_tuple()
            elif isinstance(found, dict):
                found = found["out"] if "out" in found else next(iter(found.values()))
            while isinstance(found, (tuple, list)):
                found = found[0]
            return found

    return Reading


def Reading(module: Any, form: str = "", names: tuple[str, ...] = ()) -> Any:
    """See `_reading`: the class needs torch, this module does not."""
    return _reading()(module, form, names)


# -- transformers --------------------------------------------------------------------------------

#: A tiny configuration: each model takes the fields that it has.
TINY: dict[str, Any] = {
    **dict.fromkeys(["vocab_size", "decoder_vocab_size"], 200),
    **dict.fromkeys(["hidden_size", "d_model", "n_embd", "dim", "emb_dim", "n_embed"], 64),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers"], 2),
    **dict.fromkeys(["encoder_layers", "decoder_layers", "num_decoder_layers"], 2),
    **dict.fromkeys(["encoder_num_hidden_layers", "decoder_num_hidden_layers"], 2),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads"], 4),
    **dict.fromkeys(["encoder_attention_heads", "decoder_attention_heads"], 4),
    **dict.fromkeys(["encoder_num_attention_heads", "decoder_num_attention_heads"], 4),
    **dict.fromkeys(["num_key_value_heads", "num_kv_heads"], 2),
    **dict.fromkeys(["intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"], 128),
    **dict.fromkeys(["encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim", "d_inner"], 128),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx"], 64),
    **dict.fromkeys(["head_dim", "d_kv", "kv_channels", "query_pre_attn_scalar"], 16),
    **dict.fromkeys(["v_head_dim", "qk_nope_head_dim"], 16),
    **{"max_target_positions": 64, "moe_intermediate_size": 64, "layer_norm_eps": 1e-5},
    **{"image_size": 32, "patch_size": 8, "num_labels": 5, "num_conv_pos_embeddings": 16},
    **{"num_conv_pos_embedding_groups": 4, "conv_dim": [32, 32, 32], "conv_kernel": [10, 3, 3]},
    **{"conv_stride": [5, 2, 2], "num_feat_extract_layers": 3, "output_hidden_size": 64},
    **{"tdnn_dim": [32] * 5, "classifier_proj_size": 32, "use_cache": False},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
    **{"initializer_range": 0.2, "init_std": 0.2},
}
_LENGTH = 16


def configuration(kind: str, given: dict[str, Any]) -> Any:
    """The tiny configuration of a type of model; configurations inside it are tiny too."""
    from transformers import CONFIG_MAPPING

    made = CONFIG_MAPPING[kind]
    nested = {
        name: {key: value for key, value in TINY.items() if _takes(part, key)}
        for name, part in getattr(made, "sub_configs", {}).items()
        if dataclasses.is_dataclass(part)
    }
    tiny = {name: value for name, value in TINY.items() if _takes(made, name)}
    return made(**{**nested, **tiny, **given})


def _takes(made: Any, name: str) -> bool:
    """A configuration has this field, not as one of a list for each stage."""
    fields = {each.name: each for each in dataclasses.fields(made)}
    if name not in fields:
        return False
    default = fields[name].default
    if default is dataclasses.MISSING:
        default = None
    listed = isinstance(default, (list, tuple)) or "list" in str(fields[name].type).split("|")[0]
    return listed == isinstance(TINY[name], list) or (default is None and not listed)


def transformers(task: str, model: str, given: dict[str, Any]) -> Case:
    import torch
    import transformers

    given = dict(given)
    size, frames = given.pop("size", 32), given.pop("frames", 0)
    bins, masked = given.pop("bins", 0), given.pop("mask", True)
    kind = model.removesuffix("-full").removesuffix("-cached").removesuffix("-deep")
    if model.endswith("-full"):
        config = transformers.CONFIG_MAPPING[kind](**given, use_cache=False)
    else:
        config = configuration(kind, given)
    config.architectures = []
    if task == "CausalLM":  # the other ways of running experts have no ONNX operators
        config._experts_implementation = "batched_mm"
    made = getattr(transformers, f"AutoModelFor{task}").from_config(config)
    module = randomise(made)
    if model.endswith("-cached"):
        return _cached(module, config)

    def text(prefix: str = "") -> tuple[dict[str, Any], Dynamic]:
        names = [f"{prefix}input_ids", f"{prefix}attention_mask"]
        ids = torch.randint(3, 200, (2, _LENGTH))
        values = [ids, torch.ones_like(ids)]
        return dict(zip(names, values, strict=True)), {each: {0: "n", 1: "s"} for each in names}

    inputs: dict[str, Any] = {}
    dynamic: Dynamic = {}
    main = made.main_input_name
    if main in ("input_ids", "inputs"):
        inputs, dynamic = text()
        if not masked:
            inputs.pop("attention_mask"), dynamic.pop("attention_mask")
    elif main == "pixel_values":
        shape = (2, frames, 3, size, size) if frames else (2, 3, size, size)
        inputs, dynamic = {main: torch.randn(shape)}, {main: {0: "n"}}
    elif main == "input_values" and not bins:
        inputs, dynamic = {main: torch.randn(2, 2000)}, {main: {0: "n"}}
    else:  # spectrograms, [n, t, bins] but for Whisper's
        sides = (64, bins)
        if kind == "whisper":
            sides = (bins, 2 * config.max_source_positions)
        inputs, dynamic = {main: torch.randn(2, *sides)}, {main: {0: "n"}}
    if task in ("Seq2SeqLM", "SpeechSeq2Seq"):
        inputs["decoder_input_ids"] = torch.randint(3, 200, (2, 8))
        dynamic["decoder_input_ids"] = {0: "n", 1: "t"}
        if kind == "whisper":  # without one it looks for sequences packed into one
            inputs["decoder_attention_mask"] = torch.ones_like(inputs["decoder_input_ids"])
            dynamic["decoder_attention_mask"] = {0: "n", 1: "t"}
    names = list(inputs)
    return Case(Reading(module, "", tuple(names)), tuple(inputs.values()), names, dynamic)


def _cached(module: Any, config: Any) -> Case:
    """A decoder with its cache as inputs and outputs, two tensors for each layer."""
    import torch
    from transformers import DynamicCache

    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layers = config.num_hidden_layers

    class Cached(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, ids: Any, *past: Any) -> Any:
            cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
            found = self.module(input_ids=ids, past_key_values=cache, use_cache=True)
            states = [(layer.keys, layer.values) for layer in found.past_key_values.layers]
            return (found.logits, *(each for pair in states for each in pair))

    past = [torch.randn(2, heads, 6, width) for _ in range(2 * layers)]
    ids = torch.randint(3, 200, (2, 4))
    names = ["ids", *(f"past_{i // 2}_{'kv'[i % 2]}" for i in range(2 * layers))]
    dynamic: Dynamic = {"ids": {0: "n", 1: "s"}}
    dynamic |= {name: {0: "n", 2: "past"} for name in names[1:]}
    return Case(Cached(), (ids, *past), names, dynamic)


# -- own modules, and libraries that may be missing ----------------------------------------------


def own(model: str) -> Case:
    from . import modules

    module, inputs, dynamic = modules.MODULES[model]()
    names = [f"x{i}" for i in range(len(inputs))]
    return Case(randomise(module), inputs, names, dict(zip(names, dynamic, strict=True)))


def ultralytics(model: str) -> Case:
    from ultralytics import YOLO

    made = YOLO(f"{model}.yaml").model
    case = _images(Reading(made), 64 if model.endswith("-cls") else 128)
    calibrate(case.module, case.inputs)
    case.module.module = made.fuse()
    for name, value in {"export": True, "format": "onnx"}.items():
        setattr(made.model[-1], name, value)
    return case


def diffusers(model: str) -> Case:
    import diffusers
    import torch

    blocks = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
    if model == "autoencoder_kl":
        down, up = ["DownEncoderBlock2D"] * 2, ["UpDecoderBlock2D"] * 2
        made = diffusers.AutoencoderKL(down_block_types=down, up_block_types=up, **blocks)
        return _images(Reading(made), 32)
    sample, step = torch.randn(2, 4, 16, 16), torch.tensor([3, 7])
    names = ["sample", "timestep"]
    dynamic: Dynamic = {"sample": {0: "n"}, "timestep": {0: "n"}}
    inputs: tuple[Any, ...] = (sample, step)
    sizes = {"sample_size": 16, "in_channels": 4, "out_channels": 4, **blocks}
    if model == "unet2d":
        down, up = ["DownBlock2D", "AttnDownBlock2D"], ["AttnUpBlock2D", "UpBlock2D"]
        made = diffusers.UNet2DModel(down_block_types=down, up_block_types=up, **sizes)
    else:
        down, up = ["DownBlock2D", "CrossAttnDownBlock2D"], ["CrossAttnUpBlock2D", "UpBlock2D"]
        made = diffusers.UNet2DConditionModel(
            down_block_types=down,
            up_block_types=up,
            cross_attention_dim=32,
            attention_head_dim=8,
            **sizes,
        )
        inputs += (torch.randn(2, 5, 32),)
        names.append("encoder_hidden_states")
        dynamic["encoder_hidden_states"] = {0: "n", 1: "s"}
    return Case(Reading(randomise(made), "", tuple(names)), inputs, names, dynamic)


def sklearn(model: str) -> Case:
    def write(path: str) -> None:
        import numpy as np
        from skl2onnx import to_onnx
        from sklearn.neural_network import MLPClassifier, MLPRegressor

        rng = np.random.default_rng(0)
        x = rng.normal(size=(200, 20)).astype(np.float32)
        made = {"mlp_classifier": MLPClassifier, "mlp_regressor": MLPRegressor}[model]
        y = x[:, 0] + x[:, 1] ** 2
        target = (y > 1).astype(int) if model == "mlp_classifier" else y
        fitted = made(hidden_layer_sizes=(64, 48), max_iter=20, random_state=0).fit(x, target)
        with open(path, "wb") as file:
            file.write(to_onnx(fitted, x[:1]).SerializeToString())

    return Case(write=write)


def jax(model: str) -> Case:
    def write(path: str) -> None:
        from flax import nnx
        from jax2onnx import to_onnx

        class Mlp(nnx.Module):
            def __init__(self, rngs: Any) -> None:
                self.a = nnx.Linear(20, 64, rngs=rngs)
                self.norm = nnx.LayerNorm(64, rngs=rngs)
                self.b = nnx.Linear(64, 5, rngs=rngs)

            def __call__(self, x: Any) -> Any:
                return self.b(nnx.gelu(self.norm(self.a(x))))

        class Cnn(nnx.Module):
            def __init__(self, rngs: Any) -> None:
                self.a = nnx.Conv(3, 32, (3, 3), rngs=rngs)
                self.b = nnx.Conv(32, 64, (3, 3), rngs=rngs)
                self.c = nnx.Linear(64, 5, rngs=rngs)

            def __call__(self, x: Any) -> Any:
                x = nnx.relu(self.b(nnx.relu(self.a(x))))
                return self.c(x.mean(axis=(1, 2)))

        class Attention(nnx.Module):
            def __init__(self, rngs: Any) -> None:
                self.norm = nnx.LayerNorm(64, rngs=rngs)
                self.a = nnx.MultiHeadAttention(4, 64, 64, decode=False, rngs=rngs)
                self.b = nnx.Linear(64, 128, rngs=rngs)
                self.c = nnx.Linear(128, 64, rngs=rngs)
                self.d = nnx.Linear(64, 5, rngs=rngs)

            def __call__(self, x: Any) -> Any:
                x = x + self.a(self.norm(x))
                return self.d(x + self.c(nnx.gelu(self.b(x))))

        made, shape = {
            "mlp": (Mlp, (20,)),
            "cnn": (Cnn, (16, 16, 3)),
            "attention": (Attention, (9, 64)),
        }[model]
        to_onnx(made(rngs=nnx.Rngs(0)), [("n", *shape)], return_mode="file", output_path=path)

    return Case(write=write)


def matching(only: list[str]) -> list[Entry]:
    """The entries whose names match one of the globs; all of them without any."""
    return [
        entry
        for entry in entries()
        if not only or any(fnmatch.fnmatch(entry.name, each) for each in only)
    ]
