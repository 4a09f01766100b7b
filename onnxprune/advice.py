"""What a person can do about a width that is pinned: reasons and advice, in one table.

Reasons are the sentences of rules and of the walk over the graph, so the table matches their words.
A reason that is not in it has no way around: what an operator means fixes the width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Names of inputs and outputs. `last_hidden_state` is what an encoder is for, `representation` holds
# the letters of `present`: neither is meant.
_CACHE = re.compile(
    r"(^|[./_])(past|present)([./_]|$)|(^|[./_])kv_?cache|cache_[kv]", re.IGNORECASE
)
_STATE = re.compile(
    r"(^|[./_])(?<!last_)(?<!encoder_)hidden(_state)?(_?(in|out|\d+))?$"
    r"|(^|[./_])(?<!hidden_)state(_?(in|out|n|\d+))?$"
    r"|(^|[./_])[hc]_?(0|n|in|out)$",
    re.IGNORECASE,
)

_INTERFACE = "an axis of the model's"
#: (the interface's tensors that it is about, what to say of them)
_INTERFACES = (
    (
        _CACHE,
        "exported with a KV cache among inputs and outputs, so heads and head dims are interface;"
        " export without it (use_cache=False; Optimum: a task without `-with-past`)",
    ),
    (
        _STATE,
        "a state goes in or comes out of the model, so its width is interface; export it with the"
        " state inside (zeros at the start), if nobody reads it",
    ),
)
#: (words of the reason, what to do)
_ADVICE = (
    (
        r"^no rule for operator",
        "describe the operator in a table of your own: --rules my_ops.toml (`onnxprune rules Conv`"
        " shows how a rule looks, CONTRIBUTING.md how to add one)",
    ),
    (
        r"only known at run time",
        "export with fixed sizes of everything but the batch (no dynamic_axes on it), or run a"
        " simplifier (`onnxsim`) so that shapes are constants",
    ),
    (
        r"packed in blocks|laid out in tiles|a compiled engine|a plugin of TensorRT|kernels take",
        "prune the float model as it came from the framework, and convert or quantise the result",
    ),
    (
        r"^a step of training",
        "export for inference (model.eval(), training=TrainingMode.EVAL)",
    ),
    (
        r"picks? positions at random|its own random number",
        "export for inference, without dropout and noise (model.eval())",
    ),
    (
        r"indices are values|positions are its values|values say what",
        "where it is computed from constants, a simplifier (`onnxsim`) may fold it away",
    ),
    (
        r"cache outlives|an axis of the interface",
        "export without a cache (use_cache=False)",
    ),
    (
        r"sizes \d+ and \d+ were to be one axis|two ways of merging|a run ends inside",
        "the graph reshapes across channels; export with another opset or exporter (torch's"
        " dynamo=True) may write it without",
    ),
)


def advice(reason: str, where: Sequence[str]) -> list[str]:
    """What option or setting of the export would free what is pinned for `reason`, at `where`."""
    if reason.startswith(_INTERFACE):
        return [text for names, text in _INTERFACES if any(map(names.search, where))]
    return [text for words, text in _ADVICE if re.search(words, reason)]
