"""The command line: each verb parses, calls one function of the public API, and prints.

Exit codes: 0 done; 1 a check failed, the output could not be written, onnxruntime crashed or
--timeout was over (nothing is left half written); 2 usage; 3 nothing can be pruned, or the model is
not supported; 4 the file is broken or can't be read; 130 interrupted; 143 terminated.
"""

from __future__ import annotations

import click

from ..version import __version__
from .apply import apply
from .bench import bench
from .compare import compare
from .exits import Verbs
from .inspect import inspect
from .mask import mask
from .options import VERBOSE
from .plan import plan
from .prune import prune
from .rules import show_rules
from .sensitivity import sensitivity
from .sweep import sweep
from .training import finetune, train

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Verbs, context_settings=_HELP, epilog=__doc__.split("\n\n", 1)[1])
@click.version_option(__version__, "-V", "--version", prog_name="onnxprune")
@VERBOSE
def main() -> None:
    """Structural pruning of exported ONNX files, of any architecture, from any framework."""


for _verb in (
    *(prune, plan, apply, mask, inspect, compare, bench),
    *(sensitivity, sweep, train, finetune, show_rules),
):
    main.add_command(_verb)
