"""`onnxprune rules`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from .. import api, display
from ..configuration import Verb
from ..errors import UsageError
from ..tables import operator_name, with_user_rules
from ..words import counted, near
from .options import COMMON, RULES
from .printing import console_on


@click.command("rules", cls=Verb)
@click.argument("operator", required=False)
@click.option("--missing", type=click.Path(path_type=Path), help="What MODEL has without one.")
@click.option("--coverage", is_flag=True, help="Count what is known of every operator there is.")
@RULES
@COMMON
def show_rules(
    operator: str | None,
    missing: Path | None,
    coverage: bool,
    rules: Sequence[str],
    as_json: bool,
) -> None:
    """Show what is known of an OPERATOR, or of all.

    Example: onnxprune rules Conv; onnxprune rules --missing model.onnx
    """
    known = with_user_rules(rules)
    if coverage:
        found = api.coverage(known)
        if as_json:
            click.echo(display.document({each.domain: each.to_dict() for each in found}))
        else:
            display.show_coverage(console_on(stderr=False), found)
        return
    if missing is not None:
        names = api.operators_without_rule(missing, known)
        if as_json:
            click.echo(display.document(names))
        else:
            click.echo(
                "\n".join(
                    f"{display.printable(name)}: {counted(n, 'node')}" for name, n in names.items()
                )
                or "every operator of this model has a rule"
            )
        return
    if operator is not None and operator not in known:
        hint = near(operator, known) or (
            f"; contrib operators are called like {operator_name('com.microsoft', 'FusedConv')}"
        )
        raise UsageError(f"no rule for {operator!r}{hint}")
    chosen = [known[operator]] if operator else [known[name] for name in sorted(known)]
    if as_json:
        click.echo(display.document({rule.name: rule.to_dict() for rule in chosen}))
    else:
        display.show_rules(console_on(stderr=False), chosen)
